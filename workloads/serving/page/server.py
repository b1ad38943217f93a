"""The page over HTTP: Gradio mounted at /, behind the guard and headers that let nothing in from elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import gradio as gr
from fastapi import FastAPI
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Scope

from workloads.serving.guard.addresses import Addresses
from workloads.serving.guard.guard import Guard, Rules
from workloads.serving.guard.routes import Allowed
from workloads.serving.page import page, theme, translations
from workloads.serving.page.asking import Asking
from workloads.serving.page.headers import Headers
from workloads.serving.page.login import Door
from workloads.serving.page.models import Models
from workloads.serving.page.settings import Settings
from workloads.serving.page.votes import Votes
from workloads.serving.refusal import Refusal

LARGEST_CONVERSATION = 8 * 1024 * 1024
"""Bytes of a question with what was said before."""
ROUTES = (
    Allowed("GET", "/", is_quiet=True),
    Allowed("GET", "/config", is_quiet=True),
    Allowed("GET", "/theme.css", is_quiet=True),
    Allowed("GET", "/gradio_api/app_id", is_quiet=True),
    Allowed("POST", "/gradio_api/component_server", is_quiet=True),
    Allowed("POST", "/gradio_api/component_server/", is_quiet=True),
    Allowed("POST", "/answers", LARGEST_CONVERSATION),
)
"""All of Gradio's that the page uses, and our own. Gradio brings many more, for events, uploads, files, proxies, histories and its makers:
whatever happens on the page happens in the browser, which asks by our own route."""
OPEN = (
    Allowed("GET", "/livez", is_open=True, is_quiet=True),
    Allowed("GET", "/favicon.ico", is_open=True, is_quiet=True),
    Allowed("GET", "/assets/*", is_open=True, is_quiet=True),
    Allowed("GET", "/static/*", is_open=True, is_quiet=True),
    Allowed("GET", "/manifest.json", is_open=True, is_quiet=True),
)
VOTES = (Allowed("POST", "/votes", LARGEST_CONVERSATION),)
LOGIN = (
    Allowed("GET", "/login", is_open=True, is_quiet=True),
    Allowed("POST", "/login", largest_body=4096, is_open=True),
    Allowed("POST", "/logout", largest_body=4096),
)


def application(settings: Settings, addresses: Addresses, log: Callable[[str], None]) -> ASGIApp:
    """The ASGI application, behind its guard. Its lifespan closes the connections to the engine. ``log`` takes the access log."""
    models = Models(settings)
    door = Door(settings.login, settings.title) if settings.login else None

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await models.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/livez", include_in_schema=False)
    async def livez() -> JSONResponse:
        return JSONResponse({"status": "alive"})

    if door is not None:
        app.add_route("/login", door.show, methods=["GET"])
        app.add_route("/login", door.enter, methods=["POST"])
        app.add_route("/logout", door.leave, methods=["POST"])

    app.add_route("/answers", Asking(settings, models).answer, methods=["POST"])
    if settings.votes is not None:
        app.add_route("/votes", Votes(settings.votes, log).take, methods=["POST"])
    blocks = page.build(settings, models)
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=theme.gradio_theme(),
        css=theme.css(),
        favicon_path=str(theme.STATIC / "favicon.svg"),
        i18n=gr.I18n(**translations.TRANSLATIONS),
        footer_links=[],
        run_history=False,  # Gradio would keep what people ask in a database of its own
        show_error=False,
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
    )
    rules = Rules(
        routes=(*ROUTES, *OPEN, *(VOTES if settings.votes else ()), *(LOGIN if door else ())),
        addresses=addresses,
        admit=door.admit if door else _everybody,
        refused=_refused,
        log=log,
    )
    return Headers(Guard(mounted, rules))


def _everybody(scope: Scope) -> None:
    """Where there is no login."""


def _refused(scope: Scope, refusal: Refusal) -> Response:
    """In the shape that Gradio's script shows to people; who opens the page without a session is led to the login, probes too."""
    if refusal.status == 401 and scope["path"] == "/":
        return RedirectResponse("/login", 303)
    return JSONResponse({"detail": refusal.message}, status_code=refusal.status, headers=refusal.headers)
