"""An engine for tests of the page: it speaks OpenAI's API, says what it is told to, and stops where it is told to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from workloads.runtime.http import Server, listen

GENERATION = {"temperature": 0.25, "topP": 0.9, "topK": 40, "repetitionPenalty": 1.3, "maxNewTokens": 256}


class Engine:
    """On a port of its own, in a thread. `with Engine() as engine`."""

    def __init__(self, *names: str, port: int = 0) -> None:
        self.names = names or ("poet",)
        self.asked: list[dict[str, Any]] = []
        """The bodies of all requests."""
        self.left = 0
        """Streams that the client closed."""
        self.waiting = 0
        """What the metrics give as the length of the queue."""
        self.state = "ready"
        self.refusal: tuple[int, dict[str, Any]] | None = None
        """Status and error of the next answers, in place of them."""
        self.refuses: str | None = None
        """The only model that `refusal` is about."""
        self.keys: set[str | None] = set()
        """What requests had for authorization."""
        self.answer: list[str] = ["疑是", "地上霜"]
        """Pieces of every answer."""
        self.ending = "stop"
        self._going = threading.Event()
        self._going.set()
        self._breaking = False
        self._listener = listen(in_pod=False, port=port, variable="port")
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        routes = [
            Route("/v1/models", self._models),
            Route("/metrics", self._metrics),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        self._server = Server(Starlette(routes=routes), graceful_seconds=1)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        self._server.should_exit = True
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._listener]))

    def pause(self) -> None:
        """Answers stop after their first piece, until `go_on`."""
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    def die(self) -> None:
        """Break every stream off where it is, and close the port."""
        self._breaking = True
        self.__exit__()

    async def _models(self, request: Request) -> Response:
        if self.state != "ready":
            error = {
                "message": "poet is being loaded (reading weights)",
                "type": "server_error",
                "code": "model_loading",
            }
            return JSONResponse({"error": {**error, "param": None}}, status_code=503)
        entries = [
            {
                "id": name,
                "object": "model",
                "created": 1,
                "owned_by": "tests",
                "alpaca": {"generation": GENERATION, "contextLength": 2048, "systemPrompt": None},
            }
            for name in self.names
        ]
        return JSONResponse({"object": "list", "data": entries})

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse(f"# TYPE alpaca_chat_queued gauge\nalpaca_chat_queued {self.waiting:.1f}\n")

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        self.keys.add(request.headers.get("authorization"))
        if self.refusal and self.refuses in (None, body["model"]):
            status, error = self.refusal
            return JSONResponse(
                {"error": {"param": None, "type": "invalid_request_error", **error}}, status_code=status
            )
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[str]:
        def event(delta: dict[str, str], ended: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": ended}
            return f"data: {json.dumps({**chunk(body), 'choices': [choice]})}\n\n"

        try:
            yield event({"role": "assistant", "content": ""})
            for number, piece in enumerate(self.answer):
                if number:
                    await asyncio.to_thread(self._going.wait)
                if self._breaking:
                    raise ConnectionAbortedError
                said = piece.replace("{question}", body["messages"][-1]["content"]).replace("{model}", body["model"])
                yield event({"content": said})
            yield event({}, self.ending)
            if body.get("stream_options", {}).get("include_usage"):
                usage = {"prompt_tokens": 17, "completion_tokens": 42, "total_tokens": 59}
                yield f"data: {json.dumps({**chunk(body), 'choices': [], 'usage': usage})}\n\n"
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.left += 1
            raise


def chunk(body: dict[str, Any]) -> dict[str, Any]:
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
