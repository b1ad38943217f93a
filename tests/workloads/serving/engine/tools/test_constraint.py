"""Answers that are held to a grammar, with both kinds of vocabulary."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import torch

from workloads.data.chat_templates.loading import load
from workloads.serving.engine.text import Pieces
from workloads.serving.engine.tools import trial
from workloads.serving.engine.tools.call_format import EXPLAINED, CallFormat
from workloads.serving.engine.tools.constraint import Constraint, Vocabulary
from workloads.serving.engine.tools.grammar import Calls, GrammarError, of_value
from workloads.serving.engine.tools.trial import EndlessGrammarError

POINT = {
    "type": "object",
    "properties": {"city": {"enum": ["北京", "上海"]}, "days": {"type": "integer", "minimum": 1, "maximum": 14}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"name": "weather", "parameters": POINT, "strict": True}
CLOCK = {"name": "weather_clock", "parameters": None, "strict": None}
LLAMA = CallFormat("", '{"name": "', '", "parameters": ', "}", None, "")
NO_FRAME = ("", "")


class Speaker:
    """A model's words, held to a grammar."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        self.template = load(template, None, tokenizer)
        self.pieces = Pieces(tokenizer)
        control = {*self.template.hidden.values(), *tokenizer.all_special_ids}
        self.ends = frozenset(self.template.stop_ids)
        self.vocabulary = Vocabulary(self.pieces, control, self.ends)
        self.control = control
        # sentencepiece puts a space of its own before a text.
        self.has_space = self.pieces.of(self.template.encode_text("a")[0]).startswith(b" ")

    def allowed(self, constraint: Constraint) -> set[int]:
        scores = torch.zeros(self.pieces.count + 64)
        constraint.narrow(scores)
        assert constraint.problem is None
        return set(torch.nonzero(scores == 0).flatten().tolist())

    def takes(self, grammar: str, text: str) -> bool:
        """Whether the grammar lets ``text`` be an answer, in the tokens that the tokenizer takes for it."""
        constraint = self.vocabulary.constraint(grammar)
        over = False
        for number in self.template.encode_text(text[self.has_space and text.startswith(" ") :]):
            if over or number not in self.allowed(constraint):
                return False
            over = constraint.take(number)
        return over or bool(self.ends & self.allowed(constraint))

    def babbles(self, grammar: str, seed: int) -> str:
        """What comes of drawing any token that is allowed, up to the end."""
        drawn = random.Random(seed)
        constraint = self.vocabulary.constraint(grammar)
        said = b""
        for _ in range(4000):
            allowed = self.allowed(constraint)
            assert not allowed & (self.control - self.ends)
            number = drawn.choice(sorted(allowed))
            if number in self.ends:
                break
            said += self.pieces.of(number)
            if constraint.take(number):
                break
        return said.decode()


@pytest.fixture(scope="module", params=["HumanAssistant", "Llama3"])
def speaker(request: pytest.FixtureRequest, llama: Any, byte_level: Any) -> Speaker:
    """sentencepiece with byte fallback, and byte-level BPE."""
    return Speaker(llama if request.param == "HumanAssistant" else byte_level, request.param)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"city": "北京", "days": 3}', True),
        (' {\n  "city": "上海",\n  "days": 14\n}', True),
        ('{"city":"北京","days":3}\n', True),
        ('{"city": "广州", "days": 3}', False),
        ('{"city": "北京", "days": 15}', False),
        ('{"city": "北京"}', False),
        ('{"city": "北京", "days": 3, "more": 1}', False),
        ('{"city": "北京", "days": 3', False),
        ('好：{"city": "北京", "days": 3}', False),
        ('{"city": "北京", "days": 3} 好', False),
    ],
)
def test_an_answer_keeps_to_its_schema(speaker: Speaker, text: str, fits: bool) -> None:
    assert speaker.takes(of_value(POINT, (" ", "\n"), strict=True), text) is fits


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_drawn_is_json_by_the_schema(speaker: Speaker, seed: int) -> None:
    found = json.loads(speaker.babbles(of_value(POINT, (" ", "\n"), strict=True), seed))
    assert list(found) == ["city", "days"]
    assert found["city"] in ("北京", "上海")
    assert 1 <= found["days"] <= 14
    short = {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 3}
    assert all(len(each) <= 6 for each in json.loads(speaker.babbles(of_value(short, NO_FRAME, strict=True), seed)))


@pytest.mark.parametrize(
    ("text", "required", "beside_text"),
    [
        ("今天是晴天。", False, True),
        ('<tool_call>\n{"name": "weather", "arguments": {"city": "北京", "days": 3}}\n</tool_call>', True, True),
        ('好。\n<tool_call>\n{"name": "weather_clock", "arguments": {}}\n</tool_call>', False, True),
        ('<tool_call>\n{"name": "weather_clock", "arguments": {"any": [1]}}\n</tool_call>\n'
         '<tool_call>\n{"name": "weather", "arguments": {"city": "上海", "days": 1}}\n</tool_call>\n', True, True),
        ('<tool_call>\n{"name": "weather", "arguments": {"city": "广州", "days": 3}}\n</tool_call>', False, False),
        ('<tool_call>\n{"name": "nobody", "arguments": {}}\n</tool_call>', False, False),
        ('<tool_call>\n{"name": "weather_clock", "arguments": []}\n</tool_call>', False, False),
        ('<tool_call>\n{"name": "weather_clock", "arguments": {}}', False, False),
    ],
)  # fmt: skip
def test_calls_keep_to_their_format(speaker: Speaker, text: str, required: bool, beside_text: bool) -> None:
    calls = Calls(EXPLAINED, [WEATHER, CLOCK], (" ", "\n"), {}, several=True)
    assert speaker.takes(calls.required(), text) is required
    assert speaker.takes(calls.beside_text(), text) is beside_text


def test_one_call_alone_where_no_more_are_wanted(speaker: Speaker) -> None:
    call = '<tool_call>\n{"name": "weather_clock", "arguments": {}}\n</tool_call>'
    calls = Calls(EXPLAINED, [CLOCK], NO_FRAME, {}, several=False)
    assert speaker.takes(calls.required(), call)
    assert not speaker.takes(calls.required(), f"{call}\n{call}")


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"name": "weather_clock", "parameters": {}}', True),
        (' {"name": "weather_clock", "parameters": {"a": 1}}', True),
        ('{"names": 1}', True),
        ("{}", True),
        ('答：{"name": "nobody"}', True),
        ('{"name": "nobody", "parameters": {}}', False),
    ],
)
def test_an_answer_that_begins_as_a_call_is_one(speaker: Speaker, text: str, fits: bool) -> None:
    calls = Calls(LLAMA, [CLOCK], NO_FRAME, {}, several=True)
    assert speaker.takes(calls.beside_text(), text) is fits


def test_an_answer_is_json_or_a_call(speaker: Speaker) -> None:
    grammar = Calls(EXPLAINED, [CLOCK], (" ", "\n"), {}, several=True).beside_value(POINT, strict=True)
    assert speaker.takes(grammar, '{"city": "北京", "days": 3}')
    assert speaker.takes(grammar, ' <tool_call>\n{"name": "weather_clock", "arguments": {}}\n</tool_call>')
    assert not speaker.takes(grammar, "晴")


def test_calls_behind_a_control_token_begin_with_it(byte_level: Any) -> None:
    speaker = Speaker(byte_level, "Llama3")
    mark = "<|reserved_special_token_0|>"
    number = byte_level.convert_tokens_to_ids(mark)
    form = CallFormat(f"{mark}[", '{"name": "', '", "arguments": ', "}", ", ", "]")
    grammar = Calls(form, [CLOCK], NO_FRAME, {mark: number}, several=True).beside_text()
    constraint = speaker.vocabulary.constraint(grammar)
    assert number in speaker.allowed(constraint)
    constraint.take(number)
    for piece in speaker.template.encode_text('[{"name": "weather_clock", "arguments": {}}]'):
        assert piece in speaker.allowed(constraint)
        over = constraint.take(piece)
    assert over


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "nope"}, "Invalid type: nope"),
        ({"type": "string", "format": "color"}, "Unknown format: color"),
        ({"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
        ({"enum": []}, "Unsatisfiable schema: anyOf is empty"),
        ({"$ref": "http://example.org/x"}, "Resource 'http://example.org/x' is not present in a registry"),
        ({"type": "string", "pattern": "a(?=b)"}, "regex parse error"),
        ({"type": "integer", "multipleOf": 1234567}, "multipleOf is too large: up to 20000 are counted"),
        (
            {"allOf": [{"multipleOf": 10007}, {"multipleOf": 0.0991}]},
            "multipleOf is too large: up to 20000 are counted",
        ),
        ({"type": "number", "maximum": float("inf")}, "a number in it is larger than any that is counted with"),
        ({"type": "integer", "maximum": 10**400}, "number out of range"),
    ],
)
def test_a_schema_that_cannot_be_held_to_is_refused_in_words(speaker: Speaker, schema: Any, told: str) -> None:
    with pytest.raises(GrammarError) as found:
        speaker.vocabulary.constraint(of_value(schema, NO_FRAME, strict=True))
    assert str(found.value).startswith(told)
    assert "%llguidance" not in str(found.value)


def test_what_is_not_strict_is_held_to_as_far_as_it_is_understood(speaker: Speaker) -> None:
    grammar = of_value({"type": "string", "format": "color", "maxLength": 2}, NO_FRAME, strict=False)
    assert speaker.takes(grammar, '"红"')
    assert not speaker.takes(grammar, '"红绿蓝"')


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"allOf": [{"type": "string", "pattern": f".*{letter}.*"} for letter in "abcdefghijklmnopqrst"]}, id="of one text"),
        pytest.param({"type": "object", "patternProperties": {f"^a{{{n}}}.*b{n}$": {} for n in range(400)}}, id="of names"),
    ],
)  # fmt: skip
def test_patterns_that_would_be_put_together_for_minutes_are_refused(
    speaker: Speaker, schema: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "SECONDS", 1)
    with pytest.raises(EndlessGrammarError) as found:
        speaker.vocabulary.constraint(of_value(schema, NO_FRAME, strict=False))
    assert str(found.value) == (
        "its patterns take more than 1 s of a processor to be put together: use fewer of pattern and patternProperties"
    )


def test_many_patterns_of_many_fields_are_no_trouble(speaker: Speaker) -> None:
    fields = {f"day{n}": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"} for n in range(50)}
    grammar = of_value({"type": "object", "properties": fields, "required": ["day7"]}, NO_FRAME, strict=True)
    assert speaker.takes(grammar, '{"day7": "2026-01-02"}')
    assert not speaker.takes(grammar, '{"day7": "tomorrow"}')


def test_blanks_between_the_parts_come_to_an_end(speaker: Speaker) -> None:
    grammar = of_value({"type": "object"}, NO_FRAME, strict=True)
    assert speaker.takes(grammar, "{" + " " * 30 + "}")
    assert not speaker.takes(grammar, "{" + " " * 40 + "}")
