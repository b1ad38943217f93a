"""Tools for a model whose template has no place for them: told in the system prompt, called in text, answered by the user's turn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from workloads.data.chat_templates.rendering import Message, Tools
from workloads.serving.engine.tools.call_format import EXPLAINED

INTRODUCTION = """You may call functions. They are, with schemas of their arguments:
<tools>
{tools}
</tools>
To call one, write
{example}
and several one after the other. Results come in <tool_response></tool_response>. Else answer in words."""


def introduced(messages: Sequence[Message], tools: Tools, *, has_system: bool) -> list[Message]:
    """``messages`` with ``tools`` told first: in the system prompt, or before the first question where the format has none."""
    text = introduction(tools)
    role = "system" if has_system else "user"
    if has_system and (not messages or messages[0]["role"] != "system"):
        return [{"role": "system", "content": text}, *messages]
    at = next((at for at, message in enumerate(messages) if message["role"] == role), None)
    if at is None:
        return [{"role": role, "content": text}, *messages]
    told = messages[at]["content"]
    both = f"{told}\n\n{text}" if has_system else f"{text}\n\n{told}"
    return [*messages[:at], {**messages[at], "content": both}, *messages[at + 1 :]]


def introduction(tools: Tools) -> str:
    """The words by which a model is told of ``tools``."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    example = f"{EXPLAINED.before}NAME{EXPLAINED.between}{{…}}{EXPLAINED.after}"
    return INTRODUCTION.replace("{example}", example).replace("{tools}", listed)


def in_words(messages: Sequence[Message]) -> list[Message]:
    """Calls and their results as text, for templates that know questions and answers only. Questions that come to stand one behind the
    other are made one, as templates want turns."""
    told: list[dict[str, Any]] = []
    after_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        if is_result:
            said = {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
        elif message.get("tool_calls"):
            calls = EXPLAINED.write(message["tool_calls"])
            said = {"role": "assistant", "content": "\n".join(filter(None, (message["content"], calls)))}
        else:
            said = dict(message)
        if after_result and said["role"] == "user":
            told[-1]["content"] += "\n" + said["content"]
        else:
            told.append(said)
        after_result = is_result
    return list(told)
