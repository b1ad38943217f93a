"""OpenAI's API over HTTP: routes, keys, errors in its shape, streams of events, and what the probes ask."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from workloads.serving.engine import metrics, refusals, schema
from workloads.serving.engine.metrics import Metrics
from workloads.serving.engine.schema import ChatRequest, CompletionRequest
from workloads.serving.engine.stream import Ending, Stream
from workloads.serving.guard.addresses import ANYWHERE, Addresses
from workloads.serving.guard.guard import Guard, Rules
from workloads.serving.guard.routes import Allowed
from workloads.serving.guard.scope import header
from workloads.serving.refusal import Refusal, cut

if TYPE_CHECKING:  # they bring torch: the port is open before it is imported
    from workloads.serving.engine.answer import Answer
    from workloads.serving.engine.conversation import Prompt
    from workloads.serving.engine.served_model import ServedModel

LARGEST_BODY = 4 * 1024 * 1024
"""Bytes of a question: a million of Chinese characters, or two hundred thousand tokens in the escapes of JSON."""
READERS = 2
"""Requests that are read at the same time."""
KEEP_ALIVE_SECONDS = 15.0
"""A stream in which nothing happens gets a comment this often: proxies close silent connections."""
STUCK_SECONDS = 300.0
"""Longest step before the engine counts as dead: reading a piece of a prompt into 13B parameters on two cores takes a minute."""

State = Literal["loading", "ready", "draining", "dead"]


@dataclass
class Engine:
    """What the server is built around; ``models`` come when they are loaded."""

    names: tuple[str, ...]
    key: str | None = None
    """The API key; None asks for none."""
    models: dict[str, ServedModel] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    message: str = "starting"
    """What is going on while loading."""
    draining: bool = False
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READERS))
    """Held by a request that is parsed and tokenized: however many come, the event loop has its share of the interpreter."""

    def __post_init__(self) -> None:
        self.metrics.watch(
            queued=lambda: sum(served.scheduler.queued for served in self.models.values()),
            running=lambda: sum(served.scheduler.running for served in self.models.values()),
        )

    @property
    def state(self) -> State:
        if any(served.scheduler.is_dead for served in self.models.values()):
            return "dead"
        if self.draining:
            return "draining"
        return "ready" if len(self.models) == len(self.names) else "loading"

    @property
    def is_stuck(self) -> bool:
        return any(served.scheduler.silent_for() > STUCK_SECONDS for served in self.models.values())

    def idle_within(self, seconds: float) -> bool:
        """Wait until nothing is being answered; False when time is over before."""
        end = time.monotonic() + seconds
        return all(served.scheduler.idle_within(end - time.monotonic()) for served in self.models.values())

    def find(self, name: str) -> ServedModel:
        """The model of that name. Raises Refusal where there is none, or none yet."""
        if name not in self.names:
            raise Refusal(
                404,
                f"The model '{cut(name)}' does not exist; this server has {' and '.join(self.names)}.",
                "model_not_found",
                "model",
            )
        if name not in self.models:
            raise refusals.loading(name, self.message)
        return self.models[name]


ROUTES = (
    Allowed("POST", ChatRequest.route, LARGEST_BODY),
    Allowed("POST", CompletionRequest.route, LARGEST_BODY),
    Allowed("GET", "/v1/models"),
    Allowed("GET", "/v1/models/*"),
    Allowed("GET", "/health", is_open=True, is_quiet=True),
    Allowed("GET", "/livez", is_open=True, is_quiet=True),
    Allowed("GET", "/metrics", is_open=True, is_quiet=True),
)


def application(
    engine: Engine, addresses: Addresses = ANYWHERE, log: Callable[[str], None] = lambda line: None
) -> ASGIApp:
    """The ASGI application, behind its guard. ``log`` takes the access log."""
    routes = [
        Route("/health", _plain(engine, _health)),
        Route("/livez", _plain(engine, _livez)),
        Route("/metrics", _plain(engine, _metrics)),
        Route("/v1/models", _refusing(engine, _models)),
        Route("/v1/models/{name:path}", _refusing(engine, _model)),
        Route(ChatRequest.route, _refusing(engine, _chat), methods=["POST"]),
        Route(CompletionRequest.route, _refusing(engine, _complete), methods=["POST"]),
    ]

    async def failed(request: Request, error: Exception) -> Response:
        """A bug of ours; Starlette raises it again for the log."""
        refusal = refusals.failed(f"the server failed ({type(error).__name__}): its log says more")
        engine.metrics.refused(refusal)
        return _response(refusal)

    def refused(scope: Scope, refusal: Refusal) -> Response:
        if scope["method"] == "POST":
            engine.metrics.refused(refusal)
        return _response(refusal)

    rules = Rules(
        routes=ROUTES,
        addresses=addresses,
        admit=lambda scope: _check_key(engine.key, header(scope, b"authorization")),
        refused=refused,
        log=log,
        checks_origin=engine.key is None,
    )
    return Guard(Starlette(routes=routes, exception_handlers={Exception: failed}), rules)


Handler = Callable[[Engine, Request], Awaitable[Response]]


def _plain(engine: Engine, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return await handler(engine, request)

    return answer


def _refusing(engine: Engine, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """What is refused is answered in OpenAI's shape, and counted."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(engine, request)
        except Refusal as refusal:
            if request.method == "POST":
                engine.metrics.refused(refusal)
            return _response(refusal)
        except ClientDisconnect:
            engine.metrics.ended("cancelled")
            return Response(status_code=499)

    return answer


def _check_key(key: str | None, header: str | None) -> None:
    """Raises Refusal for a key that is missing or wrong. The comparison takes as long for either, so that its time tells nothing."""
    if key is None:
        return
    scheme, _, given = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise Refusal(
            401,
            "You didn't provide an API key: send it in the header Authorization, as Bearer YOUR_KEY.",
            None,
            headers={"WWW-Authenticate": "Bearer"},
        )
    if not hmac.compare_digest(given.strip().encode(), key.encode()):
        raise Refusal(401, "Incorrect API key provided.", "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _response(refusal: Refusal) -> Response:
    return JSONResponse(refusal.body(), status_code=refusal.status, headers=refusal.headers)


async def _health(engine: Engine, request: Request) -> Response:
    state = engine.state
    body = {"status": state} | ({"message": engine.message} if state == "loading" else {})
    return JSONResponse(body, status_code=200 if state == "ready" else 503)


async def _livez(engine: Engine, request: Request) -> Response:
    if engine.state == "dead" or engine.is_stuck:
        message = "every step fails" if engine.state == "dead" else f"a step has taken more than {STUCK_SECONDS:g} s"
        return JSONResponse({"status": "dead", "message": message}, status_code=500)
    return JSONResponse({"status": "alive"})


async def _metrics(engine: Engine, request: Request) -> Response:
    return Response(engine.metrics.text(), media_type=metrics.CONTENT_TYPE)


async def _models(engine: Engine, request: Request) -> Response:
    if not engine.models:
        raise refusals.loading(engine.names[0], engine.message)
    return JSONResponse({"object": "list", "data": [served.entry() for served in engine.models.values()]})


async def _model(engine: Engine, request: Request) -> Response:
    return JSONResponse(engine.find(request.path_params["name"]).entry())


async def _chat(engine: Engine, request: Request) -> Response:
    return await _answer(engine, request, ChatRequest)


async def _complete(engine: Engine, request: Request) -> Response:
    return await _answer(engine, request, CompletionRequest)


async def _answer(engine: Engine, request: Request, kind: type[ChatRequest] | type[CompletionRequest]) -> Response:
    """From the body to the answer, whole or as a stream."""
    if engine.draining:
        raise refusals.draining()
    body = await request.body()
    async with engine.reading:
        asked = await asyncio.to_thread(schema.read, kind, body)
        served = engine.find(asked.model)
        served.scheduler.refuse_when_full()
        answer, prompt = await asyncio.to_thread(served.ask, asked)
    answer.key = asked.asker or (request.client.host if request.client else "")
    if engine.draining:
        raise refusals.draining()
    stream = served.scheduler.submit(answer)
    response = _ResponseBuilder(isinstance(asked, ChatRequest), served.name, prompt, answer)
    if asked.stream:
        return _EventStream(engine, answer, response.events(stream, asked.wants_usage))
    leaving = asyncio.create_task(_disconnected(request.receive))
    whole = asyncio.create_task(stream.whole())
    try:
        await asyncio.wait({leaving, whole}, return_when=asyncio.FIRST_COMPLETED)
        if not whole.done():
            raise ClientDisconnect
        text = whole.result()
    finally:
        answer.cancelled = True  # harmless for one that is over
        leaving.cancel()
        whole.cancel()
    engine.metrics.ended("answered")
    return JSONResponse(response.whole(text, stream.ending))


async def _disconnected(receive: Receive) -> None:
    """Returns once the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


class _EventStream(Response):
    """Server-sent events. The answer is given up as soon as the client is gone."""

    media_type = "text/event-stream"

    def __init__(self, engine: Engine, answer: Answer, events: AsyncIterator[str]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._engine, self._answer, self._events = engine, answer, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.create_task(_disconnected(receive))
        sending = asyncio.create_task(self._send(send))
        try:
            await asyncio.wait({leaving, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            else:
                self._engine.metrics.ended("cancelled")
        finally:
            self._answer.cancelled = True
            leaving.cancel()
            sending.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for event in self._events:
                await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
            self._engine.metrics.ended("answered")
        except Refusal as refusal:
            self._engine.metrics.refused(refusal)
            await send({"type": "http.response.body", "body": _event(refusal.body()).encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class _ResponseBuilder:
    """An answer in the shapes of OpenAI's API."""

    def __init__(self, chat: bool, model: str, prompt: Prompt, answer: Answer) -> None:
        self._chat, self._prompt, self._answer = chat, prompt, answer
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, ending: Ending) -> dict[str, Any]:
        content = {"message": {"role": "assistant", "content": text, "refusal": None}} if self._chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": ending.reason}
        return {**self._head, "choices": [choice], "usage": self._usage(ending), **self._extra()}

    async def events(self, stream: Stream, wants_usage: bool) -> AsyncIterator[str]:
        if self._chat:
            yield self._chunk({"role": "assistant", "content": ""})
        async for text in stream.texts(KEEP_ALIVE_SECONDS):
            yield self._chunk({"content": text}) if text else ": waiting\n\n"
        yield self._chunk({}, stream.ending.reason)
        if wants_usage:
            yield _event({**self._chunk_head, "choices": [], "usage": self._usage(stream.ending), **self._extra()})
        yield "data: [DONE]\n\n"

    @property
    def _chunk_head(self) -> dict[str, Any]:
        return self._head | ({"object": "chat.completion.chunk"} if self._chat else {})

    def _chunk(self, delta: dict[str, str], reason: str | None = None) -> str:
        content: dict[str, Any] = {"delta": delta} if self._chat else {"text": delta.get("content", "")}
        return _event(
            {**self._chunk_head, "choices": [{"index": 0, **content, "logprobs": None, "finish_reason": reason}]}
        )

    def _usage(self, ending: Ending) -> dict[str, Any]:
        prompt = len(self._prompt.ids)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": ending.tokens,
            "total_tokens": prompt + ending.tokens,
            "prompt_tokens_details": {"cached_tokens": self._answer.reused},
        }

    def _extra(self) -> dict[str, Any]:
        """What OpenAI's API does not know: clients pass it over or show it."""
        return {"alpaca": {"droppedMessages": self._prompt.dropped}} if self._prompt.dropped else {}


LINE_ENDS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}
"""Unicode's line ends, at which some clients break an event in two."""


def _event(content: dict[str, Any]) -> str:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text.translate(LINE_ENDS)}\n\n"
