"""What an answer may say, as grammars in llguidance's Lark: JSON by a schema, calls of tools, or text with either."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from workloads.serving.engine.tools.call_format import CallFormat

OPTIONS = '%llguidance {"no_forcing": true}'
"""Any tokens that spell the text, not those alone which a tokenizer would take: the model's likeliest are kept where the text agrees."""
WHITE_SPACE = r"[\x20\x0A\x0D\x09]{1,32}"
"""Between the parts of JSON. A model that writes blanks without end would never come to its last brace."""
ANY_TEXT = r"(.|\n)*"


MOST_MULTIPLES = 20_000
"""Of `multipleOf`, their figures together: an automaton counts so far for each, and one of a million takes half a minute to be made."""


class GrammarError(ValueError):
    """A grammar that cannot be held to."""


def of_value(schema: Any, frame: tuple[str, str], *, strict: bool) -> str:
    """JSON by ``schema``, in the white space that the format puts around an answer."""
    return "\n".join((OPTIONS, f"start: {_framed('value', frame)}", f"value: {_json(schema, strict)}"))


class Calls:
    """Grammars of answers that call tools. ``tokens``: control tokens that calls are written with, which no text can spell."""

    def __init__(
        self,
        form: CallFormat,
        functions: Sequence[Mapping[str, Any]],
        frame: tuple[str, str],
        tokens: Mapping[str, int],
        *,
        several: bool,
    ) -> None:
        self._form, self._functions, self._frame, self._tokens = form, functions, frame, tokens
        self._several = several and form.separator is not None

    def required(self) -> str:
        """At least one call."""
        form = self._form
        return "\n".join((OPTIONS, "start: block", f"block: {_space(self._frame)} head calls", *self._head(form.lead)))

    def beside_text(self) -> str:
        """Text, or text and calls behind it."""
        form = self._form
        any_text = f"TEXT: /{ANY_TEXT}/"
        if not form.trigger:
            lead = _in_regex(form.lead)
            return "\n".join(
                (
                    OPTIONS,
                    "start: TEXT | block",
                    f"TEXT: /{ANY_TEXT}/ & ~/ ?{lead}{ANY_TEXT}/",
                    f'HEAD: " "? {_literal(form.lead, {})}',
                    "block: HEAD calls",
                    *self._calls(),
                )
            )
        first = next((mark for mark in self._tokens if form.trigger.startswith(mark)), None)
        if first is not None:
            head = [f"block: TEXT {self._written(first)} {self._written(form.lead[len(first) :])} calls"]
        else:
            trigger = self._text_of(form.trigger)
            rest = self._written(form.lead[len(trigger) :])
            head = [f"head[lazy]: TEXT {_literal(trigger, {})}", f"block: head {rest} calls"]
        return "\n".join((OPTIONS, "start: said | block", "said: TEXT", any_text, *head, *self._calls()))

    def beside_value(self, schema: Any, *, strict: bool) -> str:
        """JSON by ``schema``, or calls."""
        lines = (
            OPTIONS,
            "start: said | block",
            f"said: {_framed('value', self._frame)}",
            f"value: {_json(schema, strict)}",
            f"block: {_space(self._frame)} head calls",
        )
        return "\n".join((*lines, *self._head(self._form.lead)))

    def _head(self, lead: str) -> list[str]:
        return [f"head: {self._written(lead)}", *self._calls()]

    def _calls(self) -> list[str]:
        form, names = self._form, range(len(self._functions))
        more = f"({self._written(form.separator or '')} {self._written(form.before)} call)*" if self._several else ""
        lines = [f"calls: call {more} {self._written(form.closing)} {_optional(self._frame[1])}"]
        lines.append("call: " + " | ".join(f"call{number}" for number in names))
        for number, function in enumerate(self._functions):
            name = self._written(function["name"] + form.between)
            arguments = _json(arguments_of(function), bool(function.get("strict")))
            lines.append(f"call{number}: {name} {arguments} {self._written(form.after)}")
        return lines

    def _written(self, text: str) -> str:
        return _literal(text, self._tokens)

    def _text_of(self, text: str) -> str:
        """Up to the first control token."""
        return text[: min((at for mark in self._tokens if (at := text.find(mark)) >= 0), default=len(text))]


def of_arguments(function: Mapping[str, Any]) -> str:
    """The arguments of a function alone. Raises GrammarError as `arguments_of`."""
    return of_value(arguments_of(function), ("", ""), strict=bool(function.get("strict")))


def arguments_of(function: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a function's arguments. Raises GrammarError for one that is of anything but an object."""
    parameters = function.get("parameters") or {"properties": {}}
    if parameters.get("type", "object") != "object":
        raise GrammarError(f"arguments are of type object, got {json.dumps(parameters['type'], ensure_ascii=False)}")
    return {**parameters, "type": "object"}


def _json(schema: Any, strict: bool) -> str:
    """A schema as Lark has it. One that is not ``strict`` is held as far as it is understood, as in OpenAI's API. Raises GrammarError."""
    if isinstance(schema, Mapping):
        _check_multiples(schema)
        schema = {**schema, "x-guidance": {"whitespace_pattern": WHITE_SPACE, "lenient": not strict}}
    try:
        return f"%json {json.dumps(schema, ensure_ascii=False, allow_nan=False)}"
    except ValueError as error:
        raise GrammarError("a number in it is larger than any that is counted with (1e308)") from error


def _check_multiples(schema: Any) -> None:
    """Raises GrammarError. Schemas that are merged (`allOf`) have to be multiples of both."""
    figures = [int("".join(map(str, Decimal(str(each)).normalize().as_tuple().digits))) for each in _multiples(schema)]
    if max(sum(figures), math.lcm(*filter(None, figures))) > MOST_MULTIPLES:
        raise GrammarError(
            f"multipleOf is too large: up to {MOST_MULTIPLES} are counted, of all in the schema together"
        )


def _multiples(schema: Any) -> Iterator[float]:
    if isinstance(schema, list):
        for part in schema:
            yield from _multiples(part)
    elif isinstance(schema, Mapping):
        for name, part in schema.items():
            if name == "multipleOf" and isinstance(part, int | float) and not isinstance(part, bool):
                yield part
            else:
                yield from _multiples(part)


def _framed(rule: str, frame: tuple[str, str]) -> str:
    return f"{_space(frame)} {rule} {_optional(frame[1])}"


def _space(frame: tuple[str, str]) -> str:
    """A sentencepiece answer begins with the space of its first word also where the format says nothing of it."""
    return _optional(frame[0] or " ")


def _optional(text: str) -> str:
    return f"{_literal(text, {})}?" if text else ""


def _literal(text: str, tokens: Mapping[str, int]) -> str:
    """``text`` as the parts of a rule, control tokens by their ids."""
    if not tokens:
        return json.dumps(text, ensure_ascii=False) if text else ""
    pieces = re.split("(" + "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) + ")", text)
    return " ".join(f"<[{tokens[piece]}]>" if piece in tokens else _literal(piece, {}) for piece in pieces if piece)


def _in_regex(text: str) -> str:
    return re.sub(r"[^\w\s\"'<>]", lambda sign: "\\" + sign[0], text).replace("\n", "\\n")
