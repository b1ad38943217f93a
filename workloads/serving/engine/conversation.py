"""A conversation as the model reads it: in tokens, and no longer than it may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workloads.data.chat_templates.rendering import Message
from workloads.data.chat_templates.template import Template
from workloads.serving.engine.refusals import Refusal


@dataclass(frozen=True)
class Prompt:
    """What the model goes on from."""

    ids: list[int]
    dropped: int = 0
    """Messages that were left out for want of room, the oldest."""


def of_messages(template: Template, messages: Sequence[Message], limit: int) -> Prompt:
    """The conversation in at most ``limit`` tokens.

    Whole turns are left out, the oldest first; never the system prompt, never the newest question. Raises Refusal when those alone are
    too long, or the template cannot write such a conversation.
    """
    whole = _encoded(template, messages)
    if len(whole) <= limit:
        return Prompt(whole)
    first = next((at for at, message in enumerate(messages) if message["role"] != "system"), len(messages))
    system, rest = list(messages[:first]), list(messages[first:])
    starts = [at for at, message in enumerate(rest) if message["role"] == "user" and at > 0]
    if not starts:
        raise too_long(len(whole), limit)
    newest = _encoded(template, [*system, *rest[starts[-1] :]])
    if len(newest) > limit:
        raise too_long(len(newest), limit)
    low, high, best = 0, len(starts) - 1, newest  # the more turns are left out, the shorter: look for the fewest
    while low < high:
        middle = (low + high) // 2
        ids = _encoded(template, [*system, *rest[starts[middle] :]])
        if len(ids) <= limit:
            high, best = middle, ids
        else:
            low = middle + 1
    return Prompt(best, dropped=starts[high])


def of_text(template: Template, text: str, limit: int, *, begins: int | None) -> Prompt:
    """A text to be gone on with, behind the token that texts begin with for this model, if one does. Raises Refusal for one that is too
    long."""
    ids = [*([] if begins is None else [begins]), *template.encode_text(text)]
    if len(ids) > limit:
        raise too_long(len(ids), limit, "prompt")
    return Prompt(ids)


def too_long(tokens: int, limit: int, param: str = "messages") -> Refusal:
    what = "the prompt has" if param == "prompt" else "the newest question with the system prompt has"
    return Refusal(
        400,
        f"This server takes at most {limit} tokens of input, and {what} {tokens}: shorten it.",
        "context_length_exceeded",
        param,
    )


def nothing(param: str) -> Refusal:
    """Of a request that comes to no token: a model cannot begin with nothing, and the step would fail for everybody."""
    return Refusal(
        400,
        f"{param} is empty, and this model has no token that texts begin with: send at least one character",
        "invalid_value",
        param,
    )


def _encoded(template: Template, messages: Sequence[Message]) -> list[int]:
    try:
        return template.prompt(messages)
    except ValueError as error:
        raise Refusal(
            400, f"the model's template cannot write this conversation: {error}", "invalid_conversation", "messages"
        ) from error
