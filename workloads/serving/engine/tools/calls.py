"""Calls of tools in an answer's text, as it grows: what is said comes out as content, calls as OpenAI's deltas of them."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from workloads.serving.engine.tools.call_format import CallFormat

Delta = dict[str, Any]
MARKS_OF_JSON = re.compile(r'[{}\[\]"\\]')


class CallReader:
    """Reads one answer. Its grammar keeps calls to their format, so that they are read letter by letter."""

    def __init__(self, form: CallFormat, *, forced: bool = False) -> None:
        """``forced``: the request named the function, which in OpenAI's API is no reason to have ended."""
        self._form, self._forced = form, forced
        self._held = ""
        self._count = 0
        self._state: Literal["text", "only text", "lead", "name", "arguments", "after"] = "text"
        self._said = False
        self._value = _Object()

    def feed(self, text: str) -> list[Delta]:
        """What ``text`` adds to the answer."""
        self._held += text
        deltas: list[Delta] = []
        while self._step(deltas):
            pass
        return deltas

    def end(self) -> list[Delta]:
        """What was held back, as it might have become a call, and is text after all."""
        rest, self._held = self._held, ""
        return [{"content": rest}] if rest and self._state in ("text", "only text") else []

    def whole(self, text: str) -> Delta:
        """The message that all of an answer makes."""
        content, calls = "", []
        for delta in [*self.feed(text), *self.end()]:
            content += delta.get("content", "")
            for call in delta.get("tool_calls", ()):
                part = {name: value for name, value in call.items() if name != "index"}
                if "id" in part:
                    calls.append(part)
                else:
                    calls[-1]["function"]["arguments"] += part["function"]["arguments"]
        return {"content": content or (None if calls else ""), **({"tool_calls": calls} if calls else {})}

    def reason(self, ended: str) -> str:
        """`finish_reason`, of an answer that ended so."""
        return "tool_calls" if ended == "stop" and self._count and not self._forced else ended

    def _step(self, deltas: list[Delta]) -> bool:
        """One step of reading; False when more text is needed first."""
        match self._state:
            case "text":
                return self._text(deltas)
            case "only text":
                self._say(len(self._held), deltas)
                return False
            case "lead":
                return self._pass(self._form.lead, "name")
            case "name":
                return self._name(deltas)
            case "arguments":
                return self._arguments(deltas)
            case "after":
                return self._after()

    def _text(self, deltas: list[Delta]) -> bool:
        """Text up to a call. What may be the start of one is held back, with the white space before it."""
        trigger = self._form.trigger
        if not trigger:  # a call is all of an answer, or there is none
            return self._at_start()
        at = self._held.find(trigger)
        if at >= 0:
            self._say(len(self._held[:at].rstrip()), deltas)
            self._held = self._held.lstrip()
            self._state = "lead"
            return True
        kept = next((n for n in range(min(len(trigger), len(self._held)), 0, -1) if trigger[:n] == self._held[-n:]), 0)
        self._say(len(self._held[: len(self._held) - kept].rstrip()), deltas)
        return False

    def _at_start(self) -> bool:
        lead = self._form.lead
        if self._held.startswith(lead):
            self._state = "lead"
            return True
        if self._held and not lead.startswith(self._held):
            self._state = "only text"
            return True
        return False

    def _say(self, size: int, deltas: list[Delta]) -> None:
        if size:
            deltas.append({"content": self._held[:size]})
            self._held = self._held[size:]

    def _pass(self, expected: str, state: Literal["name"]) -> bool:
        if len(self._held) < len(expected):
            return False
        self._held = self._held[len(expected) :]
        self._state = state
        return True

    def _name(self, deltas: list[Delta]) -> bool:
        name, found, rest = self._held.partition(self._form.between)
        if not found:
            return False
        self._held, self._state, self._value = rest, "arguments", _Object()
        function = {"name": name, "arguments": ""}
        call = {"index": self._count, "id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
        deltas.append({"tool_calls": [call]})
        self._count += 1
        return True

    def _arguments(self, deltas: list[Delta]) -> bool:
        size = self._value.feed(self._held)
        part, self._held = self._held[:size], self._held[size:]
        if part:
            deltas.append({"tool_calls": [{"index": self._count - 1, "function": {"arguments": part}}]})
        if not self._value.is_whole:
            return False
        self._state = "after"
        return True

    def _after(self) -> bool:
        """Between two calls. What is behind the last one holds nothing."""
        form = self._form
        if form.separator is None:
            return False
        next_call = form.after + form.separator + form.before
        if not self._held.startswith(next_call):
            return False
        self._held, self._state = self._held[len(next_call) :], "name"
        return True


class _Object:
    """Where an object of JSON ends, as it grows."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = self._escaped = False
        self.is_whole = False

    def feed(self, text: str) -> int:
        """How many characters of ``text`` belong to it."""
        at = 0
        while match := MARKS_OF_JSON.search(text, at):
            if self._escaped and match.start() > at:
                self._escaped = False
            at = match.end()
            self._mark(match[0])
            if self.is_whole:
                return at
        if at < len(text):
            self._escaped = False
        return len(text)

    def _mark(self, sign: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._in_text:
            self._escaped = sign == "\\"
            self._in_text = sign != '"'
        elif sign == '"':
            self._in_text = True
        elif sign in "{[":
            self._depth += 1
        elif sign in "}]":
            self._depth -= 1
            self.is_whole = self._depth == 0
