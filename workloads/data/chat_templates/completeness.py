"""Whether all that a conversation says stands in the text that a template wrote of it: templates drop what they do not know, silently."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from workloads.data.chat_templates.rendering import Message, Span, Tools


def missing(messages: Sequence[Message], tools: Tools, text: str, spans: Sequence[Span]) -> str | None:
    """The first thing said that ``text`` lacks, as a person would call it. An answer is looked for in its own span, where each has one."""
    answers = iter(spans if len(spans) == sum(message["role"] == "assistant" for message in messages) else ())
    for number, message in enumerate(messages, start=1):
        span = next(answers, None) if message["role"] == "assistant" else None
        part = text if span is None else text[slice(*span)]
        for name, said in _said(message):
            if not _stands(said, part):
                return f"{name} of message {number} ({said.strip()[:60]!r})"
    for number, tool in enumerate(tools, start=1):
        for said in _of_tool(tool):
            if not _stands(said, text):
                return f"tool {number} ({said.strip()[:60]!r})"
    return None


def _said(message: Message) -> Iterator[tuple[str, str]]:
    yield "content", message["content"] or ""
    yield "reasoning_content", message.get("reasoning_content", "")
    for call in message.get("tool_calls", ()):
        yield "tool_calls", call["function"]["name"]
        for said in _leaves(call["function"]["arguments"]):
            yield "tool_calls", said


def _of_tool(tool: Any) -> Iterator[str]:
    function = tool["function"]
    yield function["name"]
    if isinstance(function.get("description"), str):
        yield function["description"]
    parameters = function.get("parameters")
    if isinstance(parameters, dict) and isinstance(parameters.get("properties"), dict):
        yield from parameters["properties"]


def _leaves(value: Any) -> Iterator[str]:
    """Names, texts and numbers in the arguments of a call."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield name
            yield from _leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value)


def _stands(said: str, text: str) -> bool:
    """Whether ``text`` has it: as it is, in other white space, or as a string of JSON."""
    if said.strip() in text:
        return True
    text = _squeezed(text)
    return _squeezed(said) in text or _squeezed(json.dumps(said, ensure_ascii=False)[1:-1].strip("\\n ")) in text


def _squeezed(text: str) -> str:
    return "".join(text.split())
