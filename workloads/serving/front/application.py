"""vLLM's API behind the guard, with what the spec says of answers: `generation` and `systemPrompt` where a request does not say, the
deployment's own name and those of the adapters on it, a bound on the queue and on the time of an answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from workloads.serving import defaults
from workloads.serving.engine import reading, refusals, responses
from workloads.serving.guard import cross_origin, keys
from workloads.serving.guard.addresses import ANYWHERE, Addresses
from workloads.serving.guard.bodies import LARGEST_QUESTION, disconnected
from workloads.serving.guard.guard import Guard, Rules
from workloads.serving.guard.routes import Allowed
from workloads.serving.guard.scope import header
from workloads.serving.refusal import Refusal, cut

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
ASKING = (CHAT, COMPLETIONS, RESPONSES, "/v1/embeddings", "/tokenize", "/detokenize")
"""What carries a question. Everything else of vLLM's (adapters that are loaded, its own settings) is not reached."""
SAMPLING = {
    CHAT: ("temperature", "top_p", "top_k", "repetition_penalty"),
    COMPLETIONS: ("temperature", "top_p", "top_k", "repetition_penalty"),
    RESPONSES: ("temperature", "top_p"),
}
"""What is set where a request does not say. `max_new_tokens` is vLLM's own to set, which lets it end where the context does."""
ROUTES = (
    *(Allowed("POST", path, LARGEST_QUESTION) for path in ASKING),
    Allowed("GET", "/v1/models"),
    Allowed("GET", "/v1/models/*"),
    Allowed("GET", "/health", is_open=True, is_quiet=True),
    Allowed("GET", "/livez", is_open=True, is_quiet=True),
    Allowed("GET", "/metrics", is_open=True, is_quiet=True),
)
LOOK_SECONDS = 5.0
"""For what vLLM answers at once."""
KEPT_HEADERS = ("content-type", "retry-after")


@dataclass(eq=False)
class Worn:
    """An adapter that vLLM has on its model: a model of its own."""

    name: str
    """As requests call it."""
    known_as: str
    """As vLLM does, who by this name remembers what it has read of prompts: of another content it is another."""
    digest: str
    root: str
    """Where vLLM reads it."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """As of `Front`."""
    users: int = 0
    """Requests that are answered by it, or will be."""

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1


@dataclass
class Front:
    """vLLM, as it is asked."""

    name: str
    """Of the model that is served, without the adapters that are models of their own."""
    upstream: httpx.AsyncClient
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Of `defaults.GENERATION`, what is known."""
    system_prompt: str | None = None
    may_call: bool = True
    """vLLM finds calls of tools in an answer that was free to have some."""
    key: str | None = None
    most: int = 80
    """Requests that are answered or wait."""
    seconds: float = 600.0
    """For an answer."""
    adapters: dict[str, Worn] = field(default_factory=dict)
    """By their names those that are models of their own."""
    coming: frozenset[str] = frozenset()
    """Names of those that are loaded, or will be."""
    is_behind: bool = False
    """Whether vLLM has not been told of all that it is to be ready with."""
    figures: Callable[[], bytes] = bytes
    """What the adapters add to vLLM's figures."""
    present: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while nothing is being answered, once something was."""
    draining: bool = False
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))

    def enter(self) -> None:
        """A request is answered, or waits."""
        self.present += 1
        self.idle.clear()

    def leave(self) -> None:
        self.present -= 1
        if not self.present:
            self.idle.set()

    def find(self, name: str) -> Worn | None:
        """The adapter of that name; None for the model itself. Raises Refusal where there is none, or none yet."""
        if name == self.name:
            return None
        if name in self.adapters:
            return self.adapters[name]
        if name in self.coming:
            raise refusals.loading(name, "vLLM is told of it")
        raise Refusal(
            404,
            f"The model '{cut(name)}' does not exist; this server has {' and '.join((self.name, *self.adapters))}.",
            "model_not_found",
            "model",
        )

    def entries(self, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As `/v1/models` lists them: of what vLLM lists the model that is asked for by the deployment's name, for the base below an adapter
        without a name answers as nobody wants it to, and the adapters with names, of which vLLM may have listed the one before. Each has a word
        of our own. Raises Refusal while the first is not there."""
        model = next((each for each in listed if each.get("id") == self.name), None)
        if model is None:
            raise refusals.loading(self.name, "vLLM does not list it yet")
        lengths = [each["max_model_len"] for each in (model, *listed) if each.get("max_model_len")]
        length = lengths[0] if lengths else None

        def ours(generation: Mapping[str, Any]) -> dict[str, Any]:
            told = {"kind": "vLLM", "contextLength": length, "generation": defaults.told(generation)}
            return {**told, "systemPrompt": self.system_prompt}

        found = [{**model, "alpaca": ours(self.generation)}]
        for worn in self.adapters.values():
            card = {**model, "id": worn.name, "root": worn.root, "parent": self.name}
            found.append({**card, "alpaca": {**ours(worn.generation), "digest": worn.digest}})
        return found

    async def listed(self) -> list[dict[str, Any]]:
        """What vLLM lists; nothing while it does not. Raises Refusal where what answers is not vLLM, and httpx.TransportError."""
        found = ""
        try:
            told = await self.upstream.get("/v1/models", timeout=LOOK_SECONDS)
            if not told.is_success:
                return []
            found = told.text
            cards = told.json()["data"]
            if all(isinstance(card["id"], str) for card in cards):
                return list(cards)
        except (ValueError, LookupError, TypeError, httpx.DecodingError):
            found = found or "a body that cannot be decoded"
        raise refusals.failed(
            f"what answers at {self.upstream.base_url} lists no models as vLLM does ({cut(found)}): see what listens there, and its log",
            502,
        )

    def request(self, path: str, content: dict[str, Any], worn: Worn | None) -> bytes:
        """What vLLM is asked for ``content``. Raises Refusal."""
        content["model"] = worn.known_as if worn else self.name
        generation = worn.generation if worn else self.generation
        for name in SAMPLING.get(path, ()):
            if name in generation:
                content.setdefault(name, generation[name])
        if path == CHAT and not self.may_call:
            _check_choice(content)
        messages = content.get("messages")
        if self.system_prompt and isinstance(messages, list) and not _has_system(messages):
            content["messages"] = [{"role": "system", "content": self.system_prompt}, *messages]
        if self.system_prompt and path == RESPONSES:
            content.setdefault("instructions", self.system_prompt)
        return json.dumps(content, ensure_ascii=False).encode()

    def refuse_when_full(self) -> None:
        if self.draining:
            raise refusals.draining()
        if self.present >= self.most:
            raise refusals.queue_full(self.present, 1)


def application(
    front: Front, addresses: Addresses = ANYWHERE, log: Callable[[str], None] = lambda line: None
) -> ASGIApp:
    """The ASGI application, behind its guard. Its lifespan closes the connections to vLLM. ``log`` takes the access log."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await front.upstream.aclose()

    def handled(handler: Callable[[Front, Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await handler(front, request)
            except Refusal as refusal:
                return _response(refusal)
            except httpx.TransportError:
                return _response(refusals.loading(front.name, "vLLM does not answer yet"))

        return answer

    routes = [
        Route("/health", handled(_health)),
        Route("/livez", handled(_livez)),
        Route("/metrics", handled(_metrics)),
        Route("/v1/models", handled(_models)),
        Route("/v1/models/{name:path}", handled(_model)),
        *(Route(path, handled(_ask), methods=["POST"]) for path in ASKING),
    ]
    rules = Rules(
        routes=ROUTES,
        addresses=addresses,
        admit=lambda scope: keys.check(front.key, header(scope, b"authorization")),
        refused=lambda scope, refusal: _response(refusal),
        log=log,
        checks_origin=front.key is None,
    )
    guarded = Guard(Starlette(routes=routes, lifespan=lifespan), rules)
    return cross_origin.readable(guarded, addresses)


async def _health(front: Front, request: Request) -> Response:
    if front.draining:
        return JSONResponse({"status": "draining"}, status_code=503)
    try:
        told = await front.upstream.get("/health", timeout=LOOK_SECONDS)
    except httpx.TransportError:
        return JSONResponse({"status": "loading"}, status_code=503)
    if told.is_success and front.is_behind:
        names = ", ".join(sorted(front.coming))
        return JSONResponse({"status": "loading", "message": f"vLLM is told of {names}"}, status_code=503)
    return JSONResponse({"status": "ready" if told.is_success else "dead"}, status_code=told.status_code)


async def _livez(front: Front, request: Request) -> Response:
    return JSONResponse({"status": "alive"})


async def _metrics(front: Front, request: Request) -> Response:
    told = await front.upstream.get("/metrics", timeout=LOOK_SECONDS)
    figures = front.figures() if told.is_success else b""
    return Response(told.content + figures, told.status_code, media_type=told.headers.get("content-type"))


async def _models(front: Front, request: Request) -> Response:
    return JSONResponse({"object": "list", "data": await _entries(front)})


async def _model(front: Front, request: Request) -> Response:
    name = request.path_params["name"]
    front.find(name)
    found = next((each for each in await _entries(front) if each["id"] == name), None)
    if found is None:
        raise refusals.loading(name, "vLLM does not list it yet")
    return JSONResponse(found)


async def _entries(front: Front) -> list[dict[str, Any]]:
    return front.entries(await front.listed())


async def _ask(front: Front, request: Request) -> Response:
    front.refuse_when_full()
    path, body = request.url.path, await request.body()
    with contextlib.ExitStack() as kept:
        async with front.reading:
            content = await asyncio.to_thread(reading.content_of, body)
            worn = front.find(str(content.get("model", front.name)))
            if worn is not None:
                kept.enter_context(worn.used())
            asked = await asyncio.to_thread(front.request, path, content, worn)
        front.refuse_when_full()
        return _Relay(front, path, asked, worn, kept.pop_all())


class _Relay(Response):
    """vLLM's answer as it comes. It is given up, which vLLM hears by its connection, when the client is gone or the time is over."""

    def __init__(self, front: Front, path: str, body: bytes, worn: Worn | None, kept: contextlib.ExitStack) -> None:
        """``kept``: closed when the answer is over."""
        super().__init__()
        self._front, self._path, self._asked, self._worn, self._kept = front, path, body, worn, kept
        self._is_begun = self._is_stream = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._front.enter()
        leaving = asyncio.create_task(disconnected(receive))
        sending = asyncio.create_task(self._send(scope, receive, send))
        try:
            await asyncio.wait({leaving, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self._front.leave()
            self._kept.close()
            leaving.cancel()
            sending.cancel()

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        front = self._front
        try:
            async with asyncio.timeout(front.seconds):
                await self._relay(send)
            return
        except TimeoutError:
            refusal = refusals.timed_out(front.seconds)
        except httpx.ConnectError:
            refusal = refusals.loading(front.name, "vLLM does not answer yet")
        except httpx.TransportError as error:
            refusal = refusals.failed(f"vLLM broke off ({type(error).__name__}): its log says more", 502)
        except Refusal as found:
            refusal = found
        if not self._is_begun:
            await _response(refusal)(scope, receive, send)
        elif self._is_stream:
            await send({"type": "http.response.body", "body": responses.event(refusal.body()).encode()})
        else:
            raise refusal  # half an object cannot be ended: the connection is closed

    async def _relay(self, send: Send) -> None:
        head = {"content-type": "application/json"}
        asking = self._front.upstream.stream("POST", self._path, content=self._asked, headers=head)
        async with asking as told:
            if self._worn is not None and told.status_code == 404:
                await _must_be_there(self._worn, told)
            headers = [(name.encode(), told.headers[name].encode()) for name in KEPT_HEADERS if name in told.headers]
            self._is_stream = told.headers.get("content-type", "").startswith("text/event-stream")
            self._is_begun = True
            headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")] if self._is_stream else []
            await send({"type": "http.response.start", "status": told.status_code, "headers": headers})
            renaming = _Renaming(self._worn)
            async for part in told.aiter_bytes():
                await send({"type": "http.response.body", "body": renaming.next(part), "more_body": True})
            await send({"type": "http.response.body", "body": renaming.rest()})


async def _must_be_there(worn: Worn, told: httpx.Response) -> None:
    """Raises Refusal where vLLM has no such model: it has started anew, and is told of it again."""
    if worn.known_as.encode() in await told.aread():
        raise refusals.loading(worn.name, "vLLM has started anew, and is told of it")


class _Renaming:
    """An answer in pieces, in which the model is called as it was asked for."""

    def __init__(self, worn: Worn | None) -> None:
        # As a whole string of JSON: within a text its quotes would be written otherwise.
        self._theirs, self._ours = (f'"{name}"'.encode() for name in (worn.known_as, worn.name)) if worn else (b"", b"")
        self._kept = b""

    def next(self, piece: bytes) -> bytes:
        """All of it but what may be the beginning of the name."""
        if not self._theirs:
            return piece
        whole = (self._kept + piece).replace(self._theirs, self._ours)
        longest = min(len(whole), len(self._theirs) - 1)
        begun = next((n for n in range(longest, 0, -1) if self._theirs.startswith(whole[-n:])), 0)
        whole, self._kept = whole[: len(whole) - begun], whole[len(whole) - begun :]
        return whole

    def rest(self) -> bytes:
        return self._kept


def _check_choice(content: Mapping[str, Any]) -> None:
    """Raises Refusal where the model is to choose whether it calls a tool. vLLM refuses that too, in the words of its command line."""
    if content.get("tools") and content.get("tool_choice", "auto") == "auto":
        raise Refusal(
            400,
            "Unsupported value: 'tool_choice' is auto, and it is not known how this model writes calls of tools: set spec.vllm.toolCallParser "
            "of the ChatDeployment (hermes, llama3_json, mistral, …), or send 'required', 'none' or a function that is named.",
            "unsupported_parameter",
            "tool_choice",
        )


def _has_system(messages: list[Any]) -> bool:
    first = messages[0] if messages else None
    return isinstance(first, Mapping) and first.get("role") in ("system", "developer")


def _response(refusal: Refusal) -> Response:
    return JSONResponse(refusal.body(), status_code=refusal.status, headers=refusal.headers)
