"""The login: a form, a session that the browser keeps and that ends, and few guesses a minute.

A session is its end and a signature, so that any replica knows it, and a page that is started anew. Nothing is kept of it here: logging out
makes a browser forget it, and a new password ends all.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import logging
import time
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Scope

from workloads.serving.guard.scope import cookie, header
from workloads.serving.page import theme, translations
from workloads.serving.page.settings import Login
from workloads.serving.refusal import Refusal

log = logging.getLogger(__name__)

SESSION_SECONDS = 12 * 3600
"""A working day; then the login is asked for again."""
WINDOW_SECONDS = 60.0
PER_CLIENT, PER_PEER = 10, 60
"""Wrong passwords within the window, by one client and through one proxy. The proxy's word for who the client is may be a lie of the
client's own, and then the second limit holds."""


class Sessions:
    """What a browser shows in place of name and password."""

    def __init__(self, login: Login, clock: Callable[[], float] = time.time) -> None:
        # scrypt: who gets hold of a session must not find the password from it by trying.
        secret = "\0".join((login.username, login.password)).encode()
        self._key = hashlib.scrypt(secret, salt=b"literary-alpaca", n=2**14, r=8, p=1)
        self._clock = clock
        # Cookies do not know ports: two pages on one machine would log each other's users out.
        self.cookie = f"alpaca-session-{hashlib.sha256(self._key).hexdigest()[:8]}"

    def new(self) -> str:
        return self._signed(str(int(self._clock()) + SESSION_SECONDS))

    def holds(self, session: str | None) -> bool:
        """Whether it was given out here, and has not ended."""
        end = (session or "").partition(".")[0]
        return (
            end.isdecimal()
            and end.isascii()
            and len(end) < 16
            and hmac.compare_digest(self._signed(end).encode(), (session or "").encode())
            and int(end) > self._clock()
        )

    def _signed(self, end: str) -> str:
        return f"{end}.{hmac.new(self._key, end.encode(), hashlib.sha256).hexdigest()}"


class Attempts:
    """Wrong passwords of late."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, list[float]] = {}

    def check(self, scope: Scope) -> None:
        """Raises Refusal where there were too many."""
        for who, most in _origins(scope):
            recent = self._recent(who)
            if len(recent) >= most:
                wait = max(1, round(recent[0] + WINDOW_SECONDS - self._clock()))
                raise Refusal(
                    429,
                    f"{len(recent)} wrong passwords within a minute: try again in {wait} s.",
                    "too_many_attempts",
                    headers={"Retry-After": str(wait)},
                )

    def failed(self, scope: Scope) -> int:
        """One more; returns how many there were of late from there."""
        self._failures = {who: recent for who in self._failures if (recent := self._recent(who))}
        for who, _ in _origins(scope):
            self._failures.setdefault(who, []).append(self._clock())
        return len(self._failures[_origins(scope)[-1][0]])

    def _recent(self, who: str) -> list[float]:
        return [at for at in self._failures.get(who, []) if at > self._clock() - WINDOW_SECONDS]


def _origins(scope: Scope) -> tuple[tuple[str, int], ...]:
    """Where a request comes from, widest first, with the wrong passwords that may come from there."""
    peer = (scope.get("client") or ("?",))[0]
    forwarded = (header(scope, b"x-forwarded-for") or "").rpartition(",")[2].strip()[:64]
    return (peer, PER_PEER), (f"{peer} for {forwarded}" if forwarded else f"{peer} itself", PER_CLIENT)


class Door:
    """The routes of the login, and who may pass."""

    def __init__(self, login: Login, title: str) -> None:
        self._login, self._title = login, title
        self._sessions, self._attempts = Sessions(login), Attempts()

    def admit(self, scope: Scope) -> None:
        """Raises Refusal for who has no session."""
        if not self._sessions.holds(cookie(scope, self._sessions.cookie)):
            raise Refusal(401, "Log in first: the session has ended, or there was none.", "login_required")

    async def show(self, request: Request) -> Response:
        return self._form(request)

    async def enter(self, request: Request) -> Response:
        """A session for the right name and password. As slow for a wrong name as for a wrong password."""
        try:
            self._attempts.check(request.scope)
        except Refusal as refusal:
            return self._form(request, "many", refusal.status, refusal.headers)
        given = parse_qs((await request.body()).decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=8)
        name, password = (given.get(field, [""])[0].encode() for field in ("username", "password"))
        name_fits = hmac.compare_digest(name, self._login.username.encode())
        if not (hmac.compare_digest(password, self._login.password.encode()) and name_fits):
            count = self._attempts.failed(request.scope)
            log.warning(
                "login refused: wrong password number %d within a minute, from %s",
                count,
                _origins(request.scope)[-1][0],
            )
            return self._form(request, "wrong", 401)
        response = RedirectResponse("/", 303)
        response.set_cookie(
            self._sessions.cookie, self._sessions.new(), max_age=SESSION_SECONDS, httponly=True, samesite="lax", secure=_has_tls(request.scope)
        )  # fmt: skip
        return response

    async def leave(self, request: Request) -> Response:
        response = RedirectResponse("/login", 303)
        response.delete_cookie(self._sessions.cookie, httponly=True, samesite="lax", secure=_has_tls(request.scope))
        return response

    def _form(
        self, request: Request, problem: str | None = None, status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        language = translations.language(
            request.cookies.get("alpaca-language") or request.headers.get("accept-language", "")
        )
        words = translations.LOGIN[language]
        template = (theme.STATIC / "login.html").read_text(encoding="utf-8")
        values = {
            "language": {"zh": "zh-CN", "en": "en"}[language],
            "title": self._title,
            "problem": words[problem] if problem else "",
            **{name: words[name] for name in ("username", "password", "enter")},
        }
        for name, value in values.items():
            template = template.replace(f"{{{name}}}", html.escape(value))
        return HTMLResponse(template, status, {"Cache-Control": "no-store", **(headers or {})})


def _has_tls(scope: Scope) -> bool:
    """Whether the browser came by HTTPS; the proxy that ended it says so. Who lies about it does so for their own cookie."""
    return scope["scheme"] == "https" or header(scope, b"x-forwarded-proto") == "https"
