"""vLLM, as far as it can be without a GPU: what it lists, how it refuses, how it streams, that it hears who leaves, and what it says when
adapters are loaded and unloaded (vllm/entrypoints/openai/models/serving.py)."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from workloads.runtime.http import Server, listen


def serve(app: Any, port: int = 0) -> tuple[str, Any]:
    """``app`` on a port, of its own where none is named, in a thread: its address, and what ends it."""
    listener = listen(in_pod=False, port=port, variable="port")
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


def refused(status: int, kind: str, message: str, param: str | None = None) -> JSONResponse:
    error = {"message": message, "type": kind, "param": param, "code": status}
    return JSONResponse({"error": error}, status_code=status)


class Vllm:
    """`vllm serve … --served-model-name poet-base --lora-modules poet=…`; or, where ``updates``, `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm
    serve … --served-model-name poet --enable-lora --max-lora-rank 8`."""

    def __init__(self, *, updates: bool = False) -> None:
        self.updates = updates
        self.told: list[tuple[str, str]] = []
        """What was loaded (`load`) and unloaded (`unload`), by its name, since it was made."""
        self.keeps = False
        """It fails to unload, as where its memory has lost the adapter."""
        self.asked: list[dict[str, Any]] = []
        """The bodies of all requests."""
        self.left = threading.Event()
        """A client closed its connection before the answer was whole."""
        self.goes_on = threading.Event()
        """Answers wait for it behind their first piece."""
        self.goes_on.set()
        self.garbled: Response | None = None
        """In place of the list of models."""
        self.parser = ""
        """`--enable-auto-tool-choice --tool-call-parser`."""
        self.start()

    def start(self, port: int = 0) -> None:
        """Without any adapter but those of its command line."""
        self.loras: dict[str, str] = {}
        """Paths of adapters, by their names."""
        self._remembered: dict[tuple[str, str], str] = {}
        routes = [
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._answer, methods=["POST"]),
            Route("/v1/completions", self._answer, methods=["POST"]),
            Route("/v1/responses", self._answer, methods=["POST"]),
        ]
        if self.updates:
            routes.append(Route("/v1/load_lora_adapter", self._load, methods=["POST"]))
            routes.append(Route("/v1/unload_lora_adapter", self._unload, methods=["POST"]))
        self.url, self.end = serve(Starlette(routes=routes), port)

    def restart(self) -> None:
        """At the same address: it has forgotten everything."""
        port = int(self.url.rpartition(":")[2])
        self.end()
        self.start(port)

    async def _load(self, request: Request) -> Response:
        body = await request.json()
        name, path = body.get("lora_name"), body.get("lora_path")
        if not name or not path:
            return refused(400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided.")
        if name in self.loras and not body.get("load_inplace"):
            again = "If you want to load the adapter in place, set 'load_inplace' to True."
            return refused(400, "InvalidUserInput", f"The lora adapter '{name}' has already been loaded. {again}")
        config = Path(path) / "adapter_config.json"
        if not config.is_file():
            return refused(404, "NotFoundError", f"Loading lora {name} failed: No adapter found for {path}")
        rank = json.loads(config.read_text(encoding="utf-8"))["r"]
        if rank > 8:
            why = f"LoRA rank {rank} is greater than max_lora_rank 8."
            return refused(500, "InternalServerError", f"Call to add_lora method failed: {why}")
        self.loras[name] = path
        self.told.append(("load", name))
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: Request) -> Response:
        name = (await request.json()).get("lora_name")
        if name not in self.loras:
            return refused(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        if self.keeps:
            return refused(500, "InternalServerError", f"Failed to remove lora adapter '{name}' from the engine.")
        del self.loras[name]
        self.told.append(("unload", name))
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    def _says(self, body: dict[str, Any]) -> str:
        """What a model answers: an adapter the name of its folder. To a prompt that an adapter by the same name has read before, what that one
        did: its memory of prompts knows adapters by their names alone."""
        if body["model"] not in self.loras:
            return "疑是地上霜"
        prompt = json.dumps(body.get("messages") or body.get("prompt") or body.get("input"))
        return Path(self._remembered.setdefault((body["model"], prompt), self.loras[body["model"]])).name

    async def _health(self, request: Request) -> Response:
        return Response()

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse("# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting 0.0\n")

    async def _models(self, request: Request) -> Response:
        if self.garbled is not None:
            return self.garbled
        card = {"object": "model", "created": 1, "owned_by": "vllm"}
        named = "poet" if self.updates else "poet-base"
        base = {"id": named, "root": "/mnt/models/base", "parent": None, "max_model_len": 4096}
        loras = self.loras if self.updates else {"poet": "/mnt/models/lora"}
        on_it = [
            {"id": name, "root": path, "parent": named, "max_model_len": None} for name, path in list(loras.items())
        ]
        return JSONResponse({"object": "list", "data": [card | each for each in [base, *on_it]]})

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if self.updates and body["model"] not in ("poet", *self.loras):
            return refused(404, "NotFoundError", f"The model `{body['model']}` does not exist.", "model")
        if body.get("temperature", 1) > 2:
            return refused(400, "BadRequestError", "temperature must be in [0, 2].", "temperature")
        may_choose = body.get("tools") and body.get("tool_choice", "auto") == "auto"
        if may_choose and not self.parser:
            told = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
            return refused(400, "BadRequestError", told)
        if body.get("stream"):
            return StreamingResponse(self._events(body), media_type="text/event-stream; charset=utf-8")
        await self._until_told(request)
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        says = self._says(body)
        message = {"role": "assistant", "content": says}
        choice = {"index": 0, "message": message, "text": says, "logprobs": None, "finish_reason": "stop"}
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
            return f"data: {json.dumps({**head, 'choices': [choice]}, separators=(',', ':'))}\n\n"

        if body.get("tools") and self.parser:
            begun = CALL | {"index": 0, "function": CALL["function"] | {"arguments": ""}}
            yield event({"role": "assistant", "content": ""})
            yield event({"tool_calls": [begun]})
            for part in ('{"city": ', '"北京"}'):
                yield event({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
            yield event({}, "tool_calls")
            yield "data: [DONE]\n\n"
            return
        says = self._says(body)
        try:
            yield event({"role": "assistant", "content": ""})
            yield event({"content": says[:2]})
            await asyncio.to_thread(self.goes_on.wait)
            yield event({"content": says[2:]})
            yield event({}, "stop")
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.left.set()
            raise
