"""One request on its way in: everything that is checked before an application sees it, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from workloads.serving.guard import bodies, routes
from workloads.serving.guard.access_log import Entry
from workloads.serving.guard.addresses import Addresses
from workloads.serving.guard.bodies import Body, Gone, Held
from workloads.serving.guard.routes import Allowed
from workloads.serving.guard.scope import header
from workloads.serving.refusal import Refusal, cut


@dataclass(frozen=True)
class Rules:
    """Who and what gets in."""

    routes: Sequence[Allowed]
    addresses: Addresses
    admit: Callable[[Scope], None]
    """Raises Refusal for who has no key or login."""
    refused: Callable[[Scope, Refusal], Response]
    """A refusal in the application's own shape."""
    log: Callable[[str], None]
    checks_origin: bool = True
    """Not where every request brings a key, which no page elsewhere has."""
    body_seconds: float = bodies.SECONDS
    most_held: int = bodies.MOST_HELD


class Guard:
    """An application behind its rules."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app, self._rules = app, rules
        self._held = Held(rules.most_held)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry, body = Entry(scope, send), Body(scope, receive, self._held)
        route = None
        try:
            route = self._let_in(scope, entry)
            await body.read(route.largest_body, self._rules.body_seconds)
        except Refusal as refusal:
            await body.answer(self._rules.refused(scope, refusal), entry.send)
        except Gone:
            pass  # nobody is there to be answered: the log says 499
        else:
            entry.received = len(body.content or b"")
            await self._app(scope, body.receive, entry.send)
        finally:
            body.let_go()
            if entry.failed or route is None or not route.is_quiet:
                entry.tell(self._rules.log)

    def _let_in(self, scope: Scope, entry: Entry) -> Allowed:
        """The route that may be asked. Raises Refusal."""
        rules = self._rules
        if header(scope, b"content-length") is not None and header(scope, b"transfer-encoding") is not None:
            raise Refusal(400, "Content-Length and Transfer-Encoding contradict each other: send one of them.")
        if (encoding := header(scope, b"content-encoding")) not in (None, "", "identity"):
            raise Refusal(
                415,
                f"Content-Encoding is '{cut(encoding)}', and bodies are read as they are: send it uncompressed.",
                "unsupported_encoding",
                headers={"Accept-Encoding": "identity"},
            )
        rules.addresses.check_host(scope)
        route = routes.find(rules.routes, scope)
        entry.route = route.path
        if rules.checks_origin:
            rules.addresses.check_origin(scope)
        if not route.is_open:
            rules.admit(scope)
        return route
