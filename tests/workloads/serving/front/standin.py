"""vLLM, as far as it can be without a GPU: what it lists, how it refuses, how it streams, and that it hears who leaves."""

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


def serve(app: Any) -> tuple[str, Any]:
    """``app`` on a port of its own, in a thread: its address, and what ends it."""
    listener = listen(in_pod=False, port=0, variable="port")
    server = Server(app, graceful_seconds=1, lifespan="on")
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()

    def end() -> None:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive()

    return f"http://127.0.0.1:{listener.getsockname()[1]}", end


CALL: dict[str, Any] = {
    "id": "chatcmpl-tool-1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "北京"}'},
}


class Vllm:
    """`vllm serve … --served-model-name poet-base --lora-modules poet=…`."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        """The bodies of all requests."""
        self.left = threading.Event()
        """A client closed its connection before the answer was whole."""
        self.goes_on = threading.Event()
        """Answers wait for it behind their first piece."""
        self.goes_on.set()
        self.parser = ""
        """`--enable-auto-tool-choice --tool-call-parser`."""
        routes = [
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._answer, methods=["POST"]),
            Route("/v1/completions", self._answer, methods=["POST"]),
            Route("/v1/responses", self._answer, methods=["POST"]),
            Route("/v1/load_lora_adapter", self._health, methods=["POST"]),
        ]
        self.url, self.end = serve(Starlette(routes=routes))

    async def _health(self, request: Request) -> Response:
        return Response()

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse("# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting 0.0\n")

    async def _models(self, request: Request) -> Response:
        base = {"id": "poet-base", "root": "/mnt/models/base", "parent": None, "max_model_len": 4096}
        lora = {"id": "poet", "root": "/mnt/models/lora", "parent": "poet-base", "max_model_len": None}
        card = {"object": "model", "created": 1, "owned_by": "vllm"}
        return JSONResponse({"object": "list", "data": [card | base, card | lora]})

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if body.get("temperature", 1) > 2:
            error = {"message": "temperature must be in [0, 2].", "type": "BadRequestError", "param": "temperature"}
            return JSONResponse({"error": {**error, "code": 400}}, status_code=400)
        may_choose = body.get("tools") and body.get("tool_choice", "auto") == "auto"
        if may_choose and not self.parser:
            told = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
            error = {"message": told, "type": "BadRequestError", "param": None, "code": 400}
            return JSONResponse({"error": error}, status_code=400)
        if body.get("stream"):
            return StreamingResponse(self._events(body), media_type="text/event-stream; charset=utf-8")
        await self._until_told(request)
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        message = {"role": "assistant", "content": "疑是地上霜"}
        choice = {"index": 0, "message": message, "text": "疑是地上霜", "logprobs": None, "finish_reason": "stop"}
        if may_choose:
            choice |= {"message": {**message, "content": None, "tool_calls": [CALL]}, "finish_reason": "tool_calls"}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"]}
        return JSONResponse({**head, "choices": [choice], "usage": usage})

    async def _until_told(self, request: Request) -> None:
        while not self.goes_on.is_set():
            if await request.is_disconnected():
                self.left.set()
                return
            await asyncio.sleep(0.01)

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[str]:
        def event(delta: dict[str, Any], ended: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": ended}
            head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
            return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"

        if body.get("tools") and self.parser:
            begun = CALL | {"index": 0, "function": CALL["function"] | {"arguments": ""}}
            yield event({"role": "assistant", "content": ""})
            yield event({"tool_calls": [begun]})
            for part in ('{"city": ', '"北京"}'):
                yield event({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
            yield event({}, "tool_calls")
            yield "data: [DONE]\n\n"
            return
        try:
            yield event({"role": "assistant", "content": ""})
            yield event({"content": "疑是"})
            await asyncio.to_thread(self.goes_on.wait)
            yield event({"content": "地上霜"})
            yield event({}, "stop")
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.left.set()
            raise
