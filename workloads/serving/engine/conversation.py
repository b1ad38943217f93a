"""A conversation as the model reads it: in tokens, and no longer than it may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

from workloads.data.chat_templates.rendering import Message, Tools
from workloads.data.chat_templates.template import Template
from workloads.serving.engine.infilling import Infilling
from workloads.serving.refusal import Refusal

WHAT_IS_LONG = {"messages": "the newest question with the system prompt has", "tools": "the tools have"}


@dataclass(frozen=True)
class Prompt:
    """What the model goes on from."""

    ids: list[int]
    dropped: int = 0
    """Messages that were left out for want of room, the oldest."""
    text: str | None = None
    """As it was given, where it was."""


@dataclass(frozen=True)
class Room:
    """What a prompt may have."""

    tokens: int
    characters_per_token: int
    """At most, in any text: a text of more characters than ``characters`` need not be tokenized to be known as too long, and megabytes
    are not."""

    @property
    def characters(self) -> int:
        return self.tokens * self.characters_per_token


class Writes(Protocol):
    """What makes ids of a conversation: a template, or a template with what a request asks beside."""

    def prompt(self, messages: Sequence[Message], /) -> list[int]: ...


def of_messages(template: Writes, messages: Sequence[Message], room: Room) -> Prompt:
    """The conversation in at most ``room.tokens``.

    Whole turns are left out, the oldest first; never the system prompt, never the newest question. Raises Refusal when those alone are
    too long, or the template cannot write such a conversation.
    """
    first = next((at for at, message in enumerate(messages) if message["role"] != "system"), len(messages))
    system, rest = list(messages[:first]), list(messages[first:])
    starts = [0, *(at for at, message in enumerate(rest) if message["role"] == "user" and at > 0)]
    starts = _within(starts, system, rest, room)
    whole = encoded(template, [*system, *rest[starts[0] :]])
    if len(whole) <= room.tokens:
        return Prompt(whole, dropped=starts[0])
    if len(starts) == 1:
        raise too_long(len(whole), room)
    newest = encoded(template, [*system, *rest[starts[-1] :]])
    if len(newest) > room.tokens:
        raise too_long(len(newest), room)
    low, high, best = 1, len(starts) - 1, newest  # the more turns are left out, the shorter: look for the fewest
    while low < high:
        middle = (low + high) // 2
        ids = encoded(template, [*system, *rest[starts[middle] :]])
        if len(ids) <= room.tokens:
            high, best = middle, ids
        else:
            low = middle + 1
    return Prompt(best, dropped=starts[high])


def _within(starts: list[int], system: Sequence[Message], rest: Sequence[Message], room: Room) -> list[int]:
    """Of the places where a conversation may begin those behind which no more is said than there can be room for."""
    left = room.characters - sum(map(length, system))
    before = list(accumulate(map(length, rest), initial=0))
    fitting = [start for start in starts if before[-1] - before[start] <= left]
    if not fitting:
        raise too_long(
            -(-(before[-1] - before[starts[-1]] + room.characters - left) // room.characters_per_token),
            room,
            at_least=True,
        )
    return fitting


def of_text(template: Template, text: str, room: Room, *, begins: int | None, param: str = "prompt") -> Prompt:
    """A text to be gone on with, behind the token that texts begin with for this model, if one does. Raises Refusal for one that is too
    long."""
    _check_characters(len(text), room, param)
    return of_ids([*([] if begins is None else [begins]), *template.encode_text(text)], room, text=text, param=param)


def of_gap(
    infilling: Infilling, before: str, behind: str, room: Room, *, begins: int | None, param: str = "prompt"
) -> Prompt:
    """A text with a gap, which is to be filled. Raises Refusal for one that is too long."""
    _check_characters(len(before) + len(behind), room, param)
    ids = [*([] if begins is None else [begins]), *infilling.ids(before, behind)]
    return of_ids(ids, room, text=before, param=param)


def _check_characters(count: int, room: Room, param: str) -> None:
    """Raises Refusal for more than there can be room for, before they are tokenized."""
    if count > room.characters:
        raise too_long(-(-count // room.characters_per_token), room, param, at_least=True)


def of_ids(ids: list[int], room: Room, *, text: str | None = None, param: str = "prompt") -> Prompt:
    """Tokens to be gone on with. Raises Refusal for none, and for too many."""
    if not ids:
        raise nothing(param)
    if len(ids) > room.tokens:
        raise too_long(len(ids), room, param)
    return Prompt(ids, text=text)


def check_tools(tools: Tools, room: Room) -> None:
    """Raises Refusal for more than there can be room for, before it is rendered and tokenized."""
    _check_characters(sum(map(len, leaves(list(tools)))), room, "tools")


def too_long(tokens: int, room: Room, param: str = "messages", *, at_least: bool = False) -> Refusal:
    what = WHAT_IS_LONG.get(param, "the prompt has")
    return Refusal(
        400,
        f"This server takes at most {room.tokens} tokens of input, and {what} {'at least ' if at_least else ''}{tokens}: shorten it.",
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


def encoded(template: Writes, messages: Sequence[Message]) -> list[int]:
    """A conversation as the model reads it, however long. Raises Refusal for one that the template cannot write."""
    try:
        return template.prompt(messages)
    except ValueError as error:
        raise Refusal(
            400, f"the model's template cannot write this conversation: {error}", "invalid_conversation", "messages"
        ) from error


def length(message: Message) -> int:
    """Characters that it says."""
    return len(message["content"]) + sum(len(name) for name in _called(message))


def _called(message: Message) -> Iterator[str]:
    for call in message.get("tool_calls", ()):
        yield call["function"]["name"]
        yield from leaves(call["function"]["arguments"])


def leaves(value: Any) -> Iterator[str]:
    """Names and texts in a value of JSON."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield name
            yield from leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, str):
        yield value
