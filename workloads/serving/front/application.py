"""vLLM's API behind the guard, with what the spec says of answers: `generation` and `systemPrompt` where a request does not say, the
deployment's own name, a bound on the queue and on the time of an answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
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


@dataclass
class Front:
    """vLLM, as it is asked."""

    name: str
    """Of the model that is served."""
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

    def entry(self, listed: list[dict[str, Any]]) -> dict[str, Any]:
        """As `/v1/models` lists the model: of what vLLM lists the tuned one, for the base below an adapter answers as nobody wants it to,
        with our own word. Raises Refusal while it is not there."""
        told = next((each for each in listed if each.get("id") == self.name), None)
        if told is None:
            raise refusals.loading(self.name, "vLLM does not list it yet")
        lengths = [each["max_model_len"] for each in (told, *listed) if each.get("max_model_len")]
        ours = {
            "kind": "vLLM",
            "contextLength": lengths[0] if lengths else None,
            "generation": defaults.told(self.generation),
            "systemPrompt": self.system_prompt,
        }
        return {**told, "alpaca": ours}

    def request(self, path: str, body: bytes) -> bytes:
        """What vLLM is asked for ``body``. Raises Refusal."""
        content = reading.content_of(body)
        if content.setdefault("model", self.name) != self.name:
            raise self.unknown(str(content["model"]))
        for name in SAMPLING.get(path, ()):
            if name in self.generation:
                content.setdefault(name, self.generation[name])
        if path == CHAT and not self.may_call:
            _check_choice(content)
        messages = content.get("messages")
        if self.system_prompt and isinstance(messages, list) and not _has_system(messages):
            content["messages"] = [{"role": "system", "content": self.system_prompt}, *messages]
        if self.system_prompt and path == RESPONSES:
            content.setdefault("instructions", self.system_prompt)
        return json.dumps(content, ensure_ascii=False).encode()

    def unknown(self, name: str) -> Refusal:
        return Refusal(
            404,
            f"The model '{cut(name)}' does not exist; this server has {self.name}.",
            "model_not_found",
            "model",
        )

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
    return JSONResponse({"status": "ready" if told.is_success else "dead"}, status_code=told.status_code)


async def _livez(front: Front, request: Request) -> Response:
    return JSONResponse({"status": "alive"})


async def _metrics(front: Front, request: Request) -> Response:
    told = await front.upstream.get("/metrics", timeout=LOOK_SECONDS)
    return Response(told.content, told.status_code, media_type=told.headers.get("content-type"))


async def _models(front: Front, request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [await _entry(front)]})


async def _model(front: Front, request: Request) -> Response:
    if (name := request.path_params["name"]) != front.name:
        raise front.unknown(name)
    return JSONResponse(await _entry(front))


async def _entry(front: Front) -> dict[str, Any]:
    told = await front.upstream.get("/v1/models", timeout=LOOK_SECONDS)
    return front.entry(told.json()["data"] if told.is_success else [])


async def _ask(front: Front, request: Request) -> Response:
    front.refuse_when_full()
    body = await request.body()
    async with front.reading:
        asked = await asyncio.to_thread(front.request, request.url.path, body)
    front.refuse_when_full()
    return _Relay(front, request.url.path, asked)


class _Relay(Response):
    """vLLM's answer as it comes. It is given up, which vLLM hears by its connection, when the client is gone or the time is over."""

    def __init__(self, front: Front, path: str, body: bytes) -> None:
        super().__init__()
        self._front, self._path, self._asked = front, path, body
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
            headers = [(name.encode(), told.headers[name].encode()) for name in KEPT_HEADERS if name in told.headers]
            self._is_stream = told.headers.get("content-type", "").startswith("text/event-stream")
            self._is_begun = True
            headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")] if self._is_stream else []
            await send({"type": "http.response.start", "status": told.status_code, "headers": headers})
            async for part in told.aiter_bytes():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


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
