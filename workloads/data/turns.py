"""The turns of a conversation as rows write them: who speaks, what is said and thought, which tools are there and which are called."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from workloads.data import json_text
from workloads.data.supervision import is_trained

Message = dict[str, Any]
Messages = list[Message]
"""``role`` (system, user, assistant or tool) and ``content``; ``weight: "0"`` on an answer that is not trained. An answer may have
``reasoning_content``, and ``tool_calls``: ``{"type": "function", "function": {"name", "arguments"}}``; what a tool gave may have the
``name`` of the tool and its ``tool_call_id``."""

TOOL_ROLES = ("tool", "function", "observation", "ipython", "tool_response", "tool_results")
"""What speakers are called that give the results of tools."""
CALL_ROLES = ("function_call", "tool_call")
"""What an answer is called of which the text is a call of a tool, as LLaMA-Factory has it."""
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Where an answer keeps what was thought before it."""
READ = frozenset(("role", "from", "content", "value", *REASONING, "tool_calls", "tool_call_id", "name", "weight"))
UNREAD = ("function_call", "images", "image", "videos", "audios", "audio", "refusal")
"""Parts of a turn that no template here takes: a turn that has one is not the turn that would be trained."""


def turns_of(turns: Any, who: str, what: str, roles: Mapping[str, str]) -> Messages:
    """Messages of a list of turns, or of its JSON. Raises ValueError with the reason why one cannot be read."""
    turns = list_of(turns, "the conversation")
    return [_message(turn, number, who, what, roles) for number, turn in enumerate(turns, start=1)]


def list_of(value: Any, name: str) -> list[Any]:
    """A list; from a cell of a CSV, its JSON."""
    if isinstance(value, str):
        try:
            value = json_text.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} is text, and not JSON") from error
    if not isinstance(value, list):
        raise ValueError(f"{name} is {kind(value)}, not a list")
    return value


def text_of(value: Any, name: str) -> str:
    """Text as it is, numbers as text, nothing for null."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise ValueError(f"{name} is {kind(value)}, not text")


def kind(value: Any) -> str:
    """How a value is called in messages."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinite"
    return {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}.get(
        type(value), type(value).__name__
    )


def tools_of(row: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The tools that a row offers, in OpenAI's form: a list, or its JSON as ShareGPT rows have it."""
    names = [name for name in ("tools", "functions") if row.get(name)]
    if not names:
        return ()
    if len(names) > 1:
        raise ValueError("both tools and functions: keep one")
    tools = []
    for number, tool in enumerate(list_of(row[names[0]], names[0]), start=1):
        if isinstance(tool, str):
            tool = _object_in(tool, f"{names[0]} {number}")
        if isinstance(tool, dict) and "function" not in tool and "name" in tool:
            tool = {"type": "function", "function": tool}
        if not isinstance(tool, dict) or not _is_named(tool.get("function")):
            raise ValueError(f"{names[0]} {number} has no function with a name")
        tools.append(tool)
    return tuple(tools)


def _message(turn: Any, number: int, who: str, what: str, roles: Mapping[str, str]) -> Message:
    name = f"message {number}"
    calls = isinstance(turn, dict) and bool(turn.get("tool_calls"))
    if not isinstance(turn, dict) or who not in turn or (what not in turn and not calls):
        raise ValueError(f"{name} has no {who} and {what}")
    for part in UNREAD:
        if turn.get(part):
            raise ValueError(f"{name} has {part}, which is not read: write it as content or tool_calls, or remove it")
    speaker = str(turn[who]).lower()
    if speaker in CALL_ROLES:
        message: Message = {"role": "assistant", "content": "", "tool_calls": _calls_in_text(turn[what], name)}
    elif speaker in TOOL_ROLES:
        message = {"role": "tool", "content": _result(turn.get(what), name)}
        message |= {key: str(turn[key]) for key in ("name", "tool_call_id") if turn.get(key) is not None}
    elif role := roles.get(speaker):
        message = {"role": role, "content": _content(turn.get(what), name)}
    else:
        raise ValueError(f"{name} is from {turn[who]!r}; known are {', '.join([*roles, *TOOL_ROLES, *CALL_ROLES])}")
    answer = message["role"] == "assistant"
    if calls:
        message["tool_calls"] = [_call(call, name) for call in list_of(turn["tool_calls"], f"tool_calls of {name}")]
    if thoughts := list(dict.fromkeys(text_of(turn[key], f"{key} of {name}") for key in REASONING if turn.get(key))):
        if len(thoughts) > 1:
            raise ValueError(
                f"{name} has different texts as its {' and '.join(key for key in REASONING if turn.get(key))}"
            )
        message["reasoning_content"] = thoughts[0]
    if not answer and ("tool_calls" in message or "reasoning_content" in message):
        raise ValueError(f"{name} is from {turn[who]!r} and has what only an answer has: tool_calls or reasoning")
    trained = is_trained(turn, name)
    if trained and not answer:
        raise ValueError(f"{name} is from {turn[who]!r} and asks to be trained: only answers are")
    if answer and trained is False:
        message["weight"] = "0"
    return message


def _content(content: Any, name: str) -> str:
    """Text, or OpenAI's list of text parts."""
    if isinstance(content, list):
        kinds = [part.get("type") if isinstance(part, dict) else None for part in content]
        if any(found != "text" for found in kinds):
            raise ValueError(f"{name} holds more than text: {', '.join(map(str, kinds))}")
        return "".join(text_of(part.get("text"), name) for part in content)
    return text_of(content, name)


def _result(content: Any, name: str) -> str:
    """What a tool gave: text, or a value that is written as JSON."""
    if isinstance(content, dict) or (
        isinstance(content, list) and not all(isinstance(part, dict) and part.get("type") == "text" for part in content)
    ):
        return json.dumps(content, ensure_ascii=False)
    return _content(content, name)


def _calls_in_text(text: Any, name: str) -> list[dict[str, Any]]:
    """Calls of an answer of which the text is nothing else."""
    calls = text
    if isinstance(text, str):
        try:
            calls = json_text.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} is a call of a tool, and not JSON") from error
    return [_call(call, name) for call in (calls if isinstance(calls, list) else [calls])]


def _call(call: Any, name: str) -> dict[str, Any]:
    """A call in OpenAI's form; arguments that are the JSON of an object become the object."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not _is_named(function):
        raise ValueError(f"tool_calls of {name} has a call without a name")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str) and arguments.strip():
        arguments = _object_in(arguments, f"the arguments of {function['name']} in {name}")
    if arguments is not None and arguments != "" and not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {function['name']} in {name} are {kind(arguments)}, not an object")
    told = {"id": str(call["id"])} if call.get("id") is not None else {}
    return told | {
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments or {}},
    }


def _is_named(function: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(function, dict) and isinstance(function.get("name"), str) and bool(function["name"])


def _object_in(text: str, name: str) -> Any:
    try:
        return json_text.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is text, and not the JSON of an object") from error
