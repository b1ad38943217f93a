"""OpenAI's newer way to ask, `/v1/responses`: the same questions in other words. Nothing is stored, so a conversation comes whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from workloads.serving.engine import reading
from workloads.serving.engine.schema import MOST_PARTS, ChatRequest, Fields, refusal_as_text
from workloads.serving.engine.tools.schema import MOST_TOOLS, Function
from workloads.serving.refusal import Refusal

MOST_ITEMS = 10_000
PASSED_OVER = frozenset(
    {
        "include", "metadata", "prompt_cache_key", "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier", "store",
        "stream_options", "user", "max_tool_calls", "client_metadata",
    }
)  # fmt: skip
"""Without a say in what a model of ours answers. `store` too: nothing is kept, which the answer says."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "background": (False,), "truncation": ("disabled", "auto"), "top_logprobs": (0,), "previous_response_id": (), "conversation": (), "prompt": (),
}  # fmt: skip
"""Not served here, with the values that ask for nothing."""


NAMES = {
    "messages": "input",
    "response_format": "text.format",
    "max_tokens": "max_output_tokens",
    ".function": "",
    ".json_schema": "",
}
"""Of chat completions' fields, what they are called here."""


class Part(BaseModel):
    """A part of what is said."""

    type: Literal["input_text", "output_text", "text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _refusal(cls, part: Any) -> Any:
        return refusal_as_text(part, "output_text")


Content = str | Annotated[list[Part], Field(fail_fast=True, max_length=MOST_PARTS)]


class Item(BaseModel):
    """A turn, a call of a tool in an earlier answer, what the tool gave, or thoughts, which are passed over."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Content | None = None

    @model_validator(mode="before")
    @classmethod
    def _thoughts(cls, item: Any) -> Any:
        """Of those nothing is read; and what was said before has to be here."""
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "item_reference":
            raise PydanticCustomError(
                "item_reference",
                "Nothing is kept here that could be referred to: send the item itself, as clients do with store set to false",
            )
        return {"type": "reasoning"} if kind == "reasoning" else item

    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Content | None = None


class FlatFunction(Function):
    """A function that may be called."""

    type: Literal["function"]


def _named(choice: Any) -> Any:
    """`tool_choice` as chat completions have it."""
    match choice:
        case {"type": "function", "name": str(name)}:
            return {"type": "function", "function": {"name": name}}
        case {"type": "allowed_tools", "mode": mode, "tools": [*tools]}:
            nested = [{"type": "function", "function": tool} for tool in tools]
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": nested}}
    return choice


class TextSettings(BaseModel):
    """In what form the answer is."""

    format: dict[str, Any] | None = None


class ResponsesRequest(Fields):
    """`/v1/responses`."""

    route: ClassVar[str] = "/v1/responses"
    passed_over: ClassVar = PASSED_OVER
    neutral: ClassVar = NEUTRAL

    model: str
    input: str | Annotated[list[Item], Field(fail_fast=True, min_length=1, max_length=MOST_ITEMS)]
    instructions: str | None = None
    tools: Annotated[list[FlatFunction], Field(fail_fast=True, max_length=MOST_TOOLS)] | None = None
    tool_choice: Annotated[Any, BeforeValidator(_named)] = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    max_output_tokens: int | None = Field(None, ge=1)
    stream: bool | None = None

    def as_chat(self) -> ChatRequest:
        """The same question to `/v1/chat/completions`. Raises Refusal in this route's words."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(self._messages()),
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_output_tokens,
            "parallel_tool_calls": self.parallel_tool_calls,
            "tool_choice": self.tool_choice,
            "tools": [{"type": "function", "function": tool.model_dump(exclude={"type"})} for tool in self.tools or ()],
            "response_format": self._format(),
        }
        return reading.checked(ChatRequest, {name: value for name, value in body.items() if value not in (None, [])})

    def _messages(self) -> Iterator[dict[str, Any]]:
        if self.instructions:
            yield {"role": "system", "content": self.instructions}
        if isinstance(self.input, str):
            yield {"role": "user", "content": self.input}
            return
        answer: dict[str, Any] | None = None
        for number, item in enumerate(self.input):
            if item.type == "reasoning":
                continue
            message = _message(item, number)
            if answer and item.type == "function_call":  # what is said and called in one answer stands together
                answer["tool_calls"] = [*answer.get("tool_calls", ()), *message["tool_calls"]]
                continue
            if answer:
                yield answer
            answer = message if message["role"] == "assistant" else None
            if answer is None:
                yield message
        if answer:
            yield answer

    def _format(self) -> dict[str, Any] | None:
        form = self.text.format if self.text else None
        if form is None or form.get("type") != "json_schema":
            return form
        return {"type": "json_schema", "json_schema": {name: value for name, value in form.items() if name != "type"}}


def _message(item: Item, number: int) -> dict[str, Any]:
    """A turn as chat completions have it."""

    def given(name: str) -> Any:
        if (value := getattr(item, name)) is None:
            param = f"input[{number}].{name}"
            raise Refusal(400, f"Missing required parameter: '{param}'.", "missing_required_parameter", param)
        return value

    match item.type:
        case "function_call":
            function = {"name": given("name"), "arguments": item.arguments or ""}
            call = {"id": given("call_id"), "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        case "function_call_output":
            return {"role": "tool", "content": _plain(given("output")), "tool_call_id": given("call_id")}
    return {"role": given("role"), "content": _plain(given("content"))}


def in_its_words(refusal: Refusal) -> Refusal:
    """A refusal of the same question to chat completions, with this route's names."""
    param, message = refusal.param or "", refusal.message
    for theirs, ours in NAMES.items():
        message = message.replace(f"'{param}'", f"'{param.replace(theirs, ours)}'")
        param = param.replace(theirs, ours)
    return replace(refusal, param=param or None, message=message)


def _plain(content: Content) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
