"""Answers in the shapes of `/v1/responses`: items that a stream opens, fills and closes, and one body that holds them all."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from workloads.serving.engine.choices import Choices
from workloads.serving.engine.responses import KEEP_ALIVE_SECONDS, LINE_ENDS
from workloads.serving.engine.responses_request import ResponsesRequest
from workloads.serving.engine.stream import Ending
from workloads.serving.refusal import Refusal

if TYPE_CHECKING:  # they bring torch: the port is open before that is imported
    from workloads.serving.engine.served_model import Asked, ServedModel
    from workloads.serving.engine.tools.calls import CallReader, Delta

Event = dict[str, Any]


class ItemResponse:
    """What a request gets."""

    def __init__(self, served: ServedModel, request: ResponsesRequest, asked: Asked, reader: CallReader | None) -> None:
        self._request, self._asked, self._reader = request, asked, reader
        self._items: list[dict[str, Any]] = []
        self._sequence = 0
        form = (request.text.format if request.text else None) or {"type": "text"}
        self._body: dict[str, Any] = {
            "id": _id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "model": served.name,
            "output": [],
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": asked.answer.controls.temperature,
            "text": {"format": form},
            "tool_choice": _choice(request.tool_choice),
            "tools": [tool.model_dump() for tool in request.tools or ()],
            "top_p": asked.answer.controls.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": (request.model_extra or {}).get("user"),
            "metadata": (request.model_extra or {}).get("metadata") or {},
        }

    async def whole(self, choices: Choices) -> dict[str, Any]:
        """One body, when all is written. Raises Refusal."""
        async for piece in choices.pieces():
            if piece is not None:
                for _ in self._of_piece(piece.text, piece.ending):
                    pass
        return self._body

    async def events(self, choices: Choices) -> AsyncIterator[str]:
        """Server-sent events as they come. Raises Refusal."""
        for kind in ("response.created", "response.in_progress"):
            yield self._sent({"type": kind, "response": self._body})
        async for piece in choices.pieces(KEEP_ALIVE_SECONDS):
            if piece is None:
                yield ": waiting\n\n"
                continue
            for event in self._of_piece(piece.text, piece.ending):
                yield self._sent(event)

    def failure(self, refusal: Refusal) -> str:
        """The event with which a stream ends that broke off."""
        error = {"code": refusal.code or refusal.type, "message": refusal.message}
        return self._sent({"type": "response.failed", "response": {**self._body, "status": "failed", "error": error}})

    def _of_piece(self, text: str, ending: Ending | None) -> Iterator[Event]:
        for delta in self._deltas(text, ending is not None):
            yield from self._of_delta(delta)
        if ending is not None:
            yield from self._end(ending)

    def _deltas(self, text: str, at_end: bool) -> list[Delta]:
        if self._reader is None:
            return [{"content": text}] if text else []
        return [*self._reader.feed(text), *(self._reader.end() if at_end else ())]

    def _of_delta(self, delta: Delta) -> Iterator[Event]:
        if content := delta.get("content"):
            if not self._items:
                yield from self._open_message()
            self._items[-1]["content"][0]["text"] += content
            yield {**self._place(), "type": "response.output_text.delta", "content_index": 0, "delta": content, "logprobs": []}  # fmt: skip
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                yield from self._close("completed")
                item = {
                    "type": "function_call",
                    "id": _id("fc"),
                    "call_id": call["id"],
                    "name": call["function"]["name"],
                }
                self._items.append({**item, "arguments": "", "status": "in_progress"})
                yield self._item("response.output_item.added")
            elif part := call["function"]["arguments"]:
                self._items[-1]["arguments"] += part
                yield {**self._place(), "type": "response.function_call_arguments.delta", "delta": part}

    def _open_message(self) -> Iterator[Event]:
        message: dict[str, Any] = {
            "type": "message",
            "id": _id("msg"),
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        self._items.append(message)
        yield self._item("response.output_item.added")
        part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        message["content"] = [part]
        yield {**self._place(), "type": "response.content_part.added", "content_index": 0, "part": dict(part)}

    def _close(self, status: str) -> Iterator[Event]:
        """The last item is whole, or as far as it came."""
        if not self._items or self._items[-1]["status"] != "in_progress":
            return
        item = self._items[-1]
        item["status"] = status
        if item["type"] == "message":
            part, place = item["content"][0], {**self._place(), "content_index": 0}
            yield {**place, "type": "response.output_text.done", "text": part["text"], "logprobs": []}
            yield {**place, "type": "response.content_part.done", "part": dict(part)}
        else:
            done = {"type": "response.function_call_arguments.done", "name": item["name"]}
            yield {**self._place(), **done, "arguments": item["arguments"]}
        yield self._item("response.output_item.done")

    def _end(self, ending: Ending) -> Iterator[Event]:
        status = "incomplete" if ending.reason == "length" else "completed"
        if not self._items:
            yield from self._open_message()
        yield from self._close(status)
        prompt = len(self._asked.prompt.ids)
        self._body |= {
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": self._items,
            "usage": {
                "input_tokens": prompt,
                "input_tokens_details": {"cached_tokens": self._asked.answer.reused},
                "output_tokens": ending.tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": prompt + ending.tokens,
            },
        }
        if self._asked.prompt.dropped:
            self._body["alpaca"] = {"droppedMessages": self._asked.prompt.dropped}
        yield {"type": f"response.{status}", "response": self._body}

    def _place(self) -> Event:
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}

    def _item(self, kind: str) -> Event:
        return {"type": kind, "output_index": len(self._items) - 1, "item": dict(self._items[-1])}

    def _sent(self, event: Event) -> str:
        numbered = {**event, "sequence_number": self._sequence}
        self._sequence += 1
        text = json.dumps(numbered, ensure_ascii=False, separators=(",", ":")).translate(LINE_ENDS)
        return f"event: {event['type']}\ndata: {text}\n\n"


def _choice(given: Any) -> Any:
    """`tool_choice` as this route has it."""
    if isinstance(given, dict) and isinstance(given.get("function"), dict):
        return {"type": "function", "name": given["function"]["name"]}
    return given or "auto"


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
