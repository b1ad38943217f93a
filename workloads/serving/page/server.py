"""The page over HTTP: Gradio mounted at /, behind headers that let nothing in from elsewhere."""

from __future__ import annotations

import contextlib
import hmac
import re
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workloads.serving.page import page, theme, translations
from workloads.serving.page.models import Models
from workloads.serving.page.settings import Login, Settings

POLICY = "; ".join(
    (
        "default-src 'self'",
        # Gradio writes scripts and styles into the page, and evaluates what is wired to its events.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
ABOUT_GRADIO = re.compile(rb"\s*<meta\s[^>]*(?:og|twitter):[^>]*>")
"""What messengers would show of a link to the page: Gradio's name and a picture from the net."""


def application(settings: Settings) -> FastAPI:
    """The ASGI application. Its lifespan closes the connections to the engine."""
    models = Models(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await models.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, middleware=[Middleware(_Guard)])

    @app.get("/livez", include_in_schema=False)
    def livez() -> JSONResponse:
        return JSONResponse({"status": "alive"})

    blocks = page.build(settings, models)
    blocks.queue(default_concurrency_limit=None)  # answers wait for the engine, and cost nothing here meanwhile
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        auth=_check(settings.login) if settings.login else None,
        theme=theme.gradio_theme(),
        css=theme.css(),
        favicon_path=str(theme.STATIC / "favicon.svg"),
        i18n=gr.I18n(**translations.TRANSLATIONS),
        footer_links=[],
        run_history=False,  # Gradio would keep what people ask in a database of its own
        show_error=False,
        ssr_mode=False,
        pwa=False,
        max_file_size="1kb",  # nothing is uploaded here, but the route is there
        enable_monitoring=False,
    )
    return mounted


def _check(login: Login) -> Any:
    def check(username: str, password: str) -> bool:
        """As slow for a wrong name as for a wrong password."""
        name_fits = hmac.compare_digest(username.encode(), login.username.encode())
        return hmac.compare_digest(password.encode(), login.password.encode()) and name_fits

    return check


class _Guard:
    """Puts the headers on every answer, and our script in front of Gradio's on its pages."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        script = (theme.STATIC / "page.js").read_bytes()
        self._head = b"<head>\n<script>" + script + b"</script>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held: list[Message] = []

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
                if b"text/html" in dict(message["headers"]).get(b"content-type", b""):
                    held.append(message)
                    return
            elif held:
                held.append(message)
                if message.get("more_body"):
                    return
                start, *parts = held
                body = self._ours(b"".join(part.get("body", b"") for part in parts))
                headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
                await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
                await send({"type": "http.response.body", "body": body})
                return
            await send(message)

        await self._app(scope, receive, guarded)

    def _ours(self, html: bytes) -> bytes:
        return ABOUT_GRADIO.sub(b"", html).replace(b"<head>", self._head, 1)
