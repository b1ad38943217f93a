"""OpenAI's API over HTTP: routes, keys, errors in its shape, streams of events, and what the probes ask."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from workloads.serving.engine import metrics, reading, refusals, responses, responses_request, tokens
from workloads.serving.engine.choices import Choices
from workloads.serving.engine.metrics import Metrics
from workloads.serving.engine.responses_events import ItemResponse
from workloads.serving.engine.responses_request import ResponsesRequest
from workloads.serving.engine.schema import ChatRequest, CompletionRequest
from workloads.serving.engine.tokens import DetokenizeRequest, TokenizeRequest
from workloads.serving.guard import bodies, cross_origin, keys
from workloads.serving.guard.addresses import ANYWHERE, Addresses
from workloads.serving.guard.bodies import disconnected
from workloads.serving.guard.guard import Guard, Rules
from workloads.serving.guard.routes import Allowed
from workloads.serving.guard.scope import header
from workloads.serving.refusal import Refusal, cut

if TYPE_CHECKING:  # they bring torch: the port is open before it is imported
    from workloads.serving.engine.queueing import AnswerQueue
    from workloads.serving.engine.served_model import Asked, ServedModel

READERS = 2
"""Requests that are read at the same time."""
EMBEDDINGS = "/v1/embeddings"
STUCK_SECONDS = 300.0
"""Longest step before the engine counts as dead: reading a piece of a prompt into 13B parameters on two cores takes a minute."""

State = Literal["loading", "ready", "draining", "dead"]


@dataclass
class Engine:
    """What the server is built around; ``models`` come when they are loaded."""

    names: tuple[str, ...]
    """Of the models that it is ready with."""
    key: str | None = None
    """The API key; None asks for none."""
    models: dict[str, ServedModel] = field(default_factory=dict)
    coming: frozenset[str] = frozenset()
    """Adapters beside them that are loaded, or will be."""
    metrics: Metrics = field(default_factory=Metrics)
    message: str = "starting"
    """What is going on while loading."""
    draining: bool = False
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READERS))
    """Held by a request that is parsed and tokenized: however many come, the event loop has its share of the interpreter."""

    def __post_init__(self) -> None:
        self.metrics.watch(
            queued=lambda: sum(scheduler.queued for scheduler in self.schedulers),
            running=lambda: sum(scheduler.running for scheduler in self.schedulers),
        )

    @property
    def schedulers(self) -> list[AnswerQueue]:
        """One for each base: adapters on one are models of one scheduler."""
        return list(dict.fromkeys(served.scheduler for served in self.models.values()))

    @property
    def state(self) -> State:
        if any(scheduler.is_dead for scheduler in self.schedulers):
            return "dead"
        if self.draining:
            return "draining"
        return "ready" if self.models.keys() >= set(self.names) else "loading"

    @property
    def is_stuck(self) -> bool:
        return any(scheduler.silent_for() > STUCK_SECONDS for scheduler in self.schedulers)

    def idle_within(self, seconds: float) -> bool:
        """Wait until nothing is being answered; False when time is over before."""
        end = time.monotonic() + seconds
        return all(scheduler.idle_within(end - time.monotonic()) for scheduler in self.schedulers)

    def find(self, name: str) -> ServedModel:
        """The model of that name. Raises Refusal where there is none, or none yet."""
        served = self.models.get(name)
        if served is not None:
            return served
        if name in self.names or name in self.coming:
            raise refusals.loading(name, self.message)
        known = dict.fromkeys((*self.names, *self.models))
        raise Refusal(
            404,
            f"The model '{cut(name)}' does not exist; this server has {' and '.join(known)}.",
            "model_not_found",
            "model",
        )


ROUTES = (
    Allowed("POST", ChatRequest.route, bodies.LARGEST_QUESTION),
    Allowed("POST", CompletionRequest.route, bodies.LARGEST_QUESTION),
    Allowed("POST", ResponsesRequest.route, bodies.LARGEST_QUESTION),
    Allowed("POST", EMBEDDINGS, bodies.LARGEST_QUESTION),
    Allowed("POST", TokenizeRequest.route, bodies.LARGEST_QUESTION),
    Allowed("POST", DetokenizeRequest.route, bodies.LARGEST_QUESTION),
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
        Route(ResponsesRequest.route, _refusing(engine, _respond), methods=["POST"]),
        Route(EMBEDDINGS, _refusing(engine, _embed), methods=["POST"]),
        Route(TokenizeRequest.route, _refusing(engine, _tokenize), methods=["POST"]),
        Route(DetokenizeRequest.route, _refusing(engine, _detokenize), methods=["POST"]),
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
        admit=lambda scope: keys.check(engine.key, header(scope, b"authorization")),
        refused=refused,
        log=log,
        checks_origin=engine.key is None,
    )
    guarded = Guard(Starlette(routes=routes, exception_handlers={Exception: failed}), rules)
    return cross_origin.readable(guarded, addresses)


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


async def _respond(engine: Engine, request: Request) -> Response:
    return await _answer(engine, request, ResponsesRequest)


async def _embed(engine: Engine, request: Request) -> Response:
    raise refusals.no_embeddings()


async def _tokenize(engine: Engine, request: Request) -> Response:
    def told(body: bytes) -> dict[str, Any]:
        asked = reading.read(TokenizeRequest, body)
        return tokens.tokenize(engine.find(asked.model or engine.names[0]), asked)

    return await _told(engine, request, told)


async def _detokenize(engine: Engine, request: Request) -> Response:
    def told(body: bytes) -> dict[str, Any]:
        asked = reading.read(DetokenizeRequest, body)
        return tokens.detokenize(engine.find(asked.model or engine.names[0]), asked)

    return await _told(engine, request, told)


async def _told(engine: Engine, request: Request, told: Callable[[bytes], dict[str, Any]]) -> Response:
    """What a thread makes of a body."""
    body = await request.body()
    async with engine.reading:
        content = await asyncio.to_thread(told, body)
    engine.metrics.ended("answered")
    return JSONResponse(content)


Question = ChatRequest | CompletionRequest | ResponsesRequest


async def _answer(engine: Engine, request: Request, kind: type[Question]) -> Response:
    """From the body to the answer, whole or as a stream."""
    if engine.draining:
        raise refusals.draining()
    body = await request.body()
    with contextlib.ExitStack() as kept:
        async with engine.reading:
            asked = cast("Question", await asyncio.to_thread(reading.read, kind, body))
            served = engine.find(asked.model)
            kept.enter_context(served.used())
            served.scheduler.refuse_when_full()
            response, answers = await asyncio.to_thread(_asked, served, asked)
        for each in answers:
            each.answer.key = asked.asker or (request.client.host if request.client else "")
        if engine.draining:
            raise refusals.draining()
        choices = Choices(served.scheduler, [each.answer for each in answers])
        if asked.stream:
            return _EventStream(engine, choices, response, kept.pop_all())
        leaving = asyncio.create_task(disconnected(request.receive))
        whole = asyncio.create_task(response.whole(choices))
        try:
            await asyncio.wait({leaving, whole}, return_when=asyncio.FIRST_COMPLETED)
            if not whole.done():
                raise ClientDisconnect
            answered = whole.result()
        finally:
            choices.give_up()
            leaving.cancel()
            whole.cancel()
    engine.metrics.ended("answered")
    return JSONResponse(answered)


def _asked(served: ServedModel, asked: Question) -> tuple[responses.Response | ItemResponse, list[Asked]]:
    """What is to be answered, and what tells it. Raises Refusal."""
    if not isinstance(asked, ResponsesRequest):
        answers = served.ask(asked)
        return responses.Response(served, asked, answers), answers
    try:
        chat = asked.as_chat()
        answers = served.ask(chat)
    except Refusal as refusal:
        raise responses_request.in_its_words(refusal) from refusal
    return ItemResponse(served, asked, answers[0], served.reader(chat)), answers


class _EventStream(Response):
    """Server-sent events. The answer is given up as soon as the client is gone."""

    media_type = "text/event-stream"

    def __init__(
        self,
        engine: Engine,
        choices: Choices,
        response: responses.Response | ItemResponse,
        kept: contextlib.ExitStack,
    ) -> None:
        """``kept``: closed when the answer is over."""
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._engine, self._choices, self._response, self._kept = engine, choices, response, kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.create_task(disconnected(receive))
        sending = asyncio.create_task(self._send(send))
        try:
            await asyncio.wait({leaving, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            else:
                self._engine.metrics.ended("cancelled")
        finally:
            self._choices.give_up()
            self._kept.close()
            leaving.cancel()
            sending.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for event in self._response.events(self._choices):
                await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
            self._engine.metrics.ended("answered")
        except Refusal as refusal:
            self._engine.metrics.refused(refusal)
            last = self._response.failure(refusal)
            await send({"type": "http.response.body", "body": last.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
