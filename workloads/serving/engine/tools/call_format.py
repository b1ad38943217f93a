"""How calls of tools are written in an answer: read off the model's own template where that knows tools, else one that a prompt explains."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workloads.data.chat_templates.template import Template

PROBE_NAMES = ("weather_probe", "calendar_probe")
PROBE_ARGUMENTS: dict[str, Any] = {"city": "北京", "days": 3}
PROBE_IDS = ("abcdefgh1", "abcdefgh2")
"""Of nine characters, as Mistral's templates want them."""
PROBE_TOOLS = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Probes {name}.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
    for name in PROBE_NAMES
)
FIRST_MARK_ENDS = " \t\r\n{"
"""What no trigger holds: a model may put other white space there, and braces begin what is JSON."""


@dataclass(frozen=True)
class CallFormat:
    """Calls as they stand in the text of an answer: ``opening``, then for each ``before`` name ``between`` arguments ``after``, with
    ``separator`` between two, then ``closing``."""

    opening: str
    before: str
    between: str
    after: str
    separator: str | None
    """None where an answer holds one call."""
    closing: str

    @property
    def lead(self) -> str:
        """All that stands before the first name."""
        return self.opening + self.before

    @property
    def trigger(self) -> str:
        """The beginning of `lead` that no ordinary text has: behind it a call is certain. Empty where a call begins as any JSON may, so
        that only an answer which begins with the whole of `lead` is one."""
        return next((self.lead[:at] for at, sign in enumerate(self.lead) if sign in FIRST_MARK_ENDS), self.lead)

    def write(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """``calls`` of OpenAI's form, their arguments as objects."""
        functions = [call["function"] for call in calls]
        written = [
            self.before + each["name"] + self.between + _json(each["arguments"]) + self.after for each in functions
        ]
        return self.opening + (self.separator or "").join(written) + self.closing


EXPLAINED = CallFormat(
    opening="",
    before='<tool_call>\n{"name": "',
    between='", "arguments": ',
    after="}\n</tool_call>",
    separator="\n",
    closing="",
)
"""What `prompt.py` asks for: the form that most models with tools were trained on."""


def of_template(template: Template) -> CallFormat | None:
    """As the model's own template writes calls. None where it has no place for tools, or writes arguments in another way than as JSON."""
    try:
        one = _said(template, 1)
    except ValueError:
        return None
    found = _of_one(one)
    if found is None or any(number in one for number in PROBE_IDS):
        return None
    try:
        return _with_second(found, _said(template, 2))
    except ValueError:  # it refuses answers with two calls
        return found


def _said(template: Template, count: int) -> str:
    """The text of an answer that calls so many tools, without what ends it. Raises ValueError where the template cannot say all of it."""
    calls = [
        {"id": number, "type": "function", "function": {"name": name, "arguments": PROBE_ARGUMENTS}}
        for number, name in zip(PROBE_IDS[:count], PROBE_NAMES, strict=False)
    ]
    conversation: list[dict[str, Any]] = [
        {"role": "user", "content": "问"},
        {"role": "assistant", "content": "", "tool_calls": calls},
    ]
    text, spans = template.rendered_whole(conversation, PROBE_TOOLS)
    if not spans:
        raise ValueError("it is not known where an answer begins")
    said = text[slice(*spans[-1])]
    ends = [mark for mark, number in template.control.items() if number in template.stop_ids]
    first = min((at for mark in ends if (at := said.find(mark)) >= 0), default=len(said))
    return said[:first].strip().removeprefix(template.frame[0].strip()).strip()


def _of_one(said: str) -> CallFormat | None:
    before, name, rest = said.partition(PROBE_NAMES[0])
    decoder = json.JSONDecoder()
    for at, sign in enumerate(rest):
        if not name or sign != "{":
            continue
        try:
            arguments, end = decoder.raw_decode(rest, at)
        except ValueError:
            continue
        if arguments == PROBE_ARGUMENTS:
            return CallFormat("", before, rest[:at], rest[end:], None, "")
    return None


def _with_second(one: CallFormat, two: str) -> CallFormat:
    """``one`` with what stands between two calls, as far as an answer with two is written of the same parts."""
    _, _, rest = two.partition(one.between)
    try:
        _, end = json.JSONDecoder().raw_decode(rest)
    except ValueError:
        return one
    middle, name, _ = rest[end:].partition(PROBE_NAMES[1])
    after = middle[: _shared(middle, one.after)]
    before = one.before[len(one.before) - _shared(middle[::-1], one.before[::-1]) :]
    if not name or len(after) + len(before) > len(middle):
        return one
    found = CallFormat(
        opening=one.before.removesuffix(before),
        before=before,
        between=one.between,
        after=after,
        separator=middle[len(after) : len(middle) - len(before)],
        closing=one.after.removeprefix(after),
    )
    calls = [{"function": {"name": name, "arguments": PROBE_ARGUMENTS}} for name in PROBE_NAMES]
    return found if found.write(calls) == two else one


def _shared(one: str, other: str) -> int:
    """Characters that both begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
