"""Calls read from an answer that grows, wherever it is cut."""

from __future__ import annotations

from typing import Any

import pytest

from workloads.serving.engine.tools.call_format import EXPLAINED, CallFormat
from workloads.serving.engine.tools.calls import CallReader

LLAMA = CallFormat("", '{"name": "', '", "parameters": ', "}", None, "")
LISTED = CallFormat("[TOOL_CALLS] [", '{"name": "', '", "arguments": ', "}", ", ", "]")


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}}


TWO = [call("weather", {"city": '北"京}\\', "more": [{"a": "]"}]}), call("clock", {})]
ARGUMENTS = ['{"city": "北\\"京}\\\\", "more": [{"a": "]"}]}', "{}"]


def read(form: CallFormat, *pieces: str) -> tuple[str, list[tuple[str, str]], list[int], str]:
    """Content, calls, the indexes of their deltas, and why it ended."""
    reader = CallReader(form)
    deltas = [delta for piece in pieces for delta in reader.feed(piece)] + reader.end()
    content = "".join(delta.get("content", "") for delta in deltas)
    calls: list[list[str]] = []
    indexes = []
    for part in (part for delta in deltas for part in delta.get("tool_calls", ())):
        indexes.append(part["index"])
        if "id" in part:
            assert (part["type"], part["index"]) == ("function", len(calls))
            calls.append([part["function"]["name"], part["function"]["arguments"]])
        else:
            calls[-1][1] += part["function"]["arguments"]
    return content, [(name, arguments) for name, arguments in calls], indexes, reader.reason("stop")


@pytest.mark.parametrize(
    ("form", "before", "calls"),
    [
        pytest.param(EXPLAINED, "", TWO, id="two calls in marks"),
        pytest.param(EXPLAINED, "看看 <tool>：\n", TWO, id="two calls behind words"),
        pytest.param(LISTED, "好。", TWO, id="a list of calls"),
        pytest.param(LLAMA, "", TWO[:1], id="an answer that is the call"),
    ],
)
def test_calls_are_the_same_wherever_the_text_is_cut(form: CallFormat, before: str, calls: list[Any]) -> None:
    text = before + form.write(calls) + "\n"
    expected = [(each["function"]["name"], said) for each, said in zip(calls, ARGUMENTS, strict=False)]
    for size in (1, 2, 3, 7, len(text)):
        content, found, indexes, reason = read(form, *(text[at : at + size] for at in range(0, len(text), size)))
        assert (content, found, reason) == (before.rstrip(), expected, "tool_calls")
        assert indexes == sorted(indexes)
    whole = CallReader(form).whole(text)
    assert whole["content"] == (before.rstrip() or None)
    assert [part["function"]["arguments"] for part in whole["tool_calls"]] == [said for _, said in expected]


@pytest.mark.parametrize("form", [EXPLAINED, LLAMA, LISTED])
@pytest.mark.parametrize("text", ["他说 <tool_", '{"nam', "{}", " a \n b ", "[TOOL_CALLS", "", "{"])
def test_text_that_only_looks_like_a_call_is_text(form: CallFormat, text: str) -> None:
    assert read(form, *text) == (text, [], [], "stop")
    assert CallReader(form).whole(text) == {"content": text}


def test_arguments_come_as_they_are_written() -> None:
    reader = CallReader(EXPLAINED)
    deltas = [
        reader.feed(piece) for piece in ('<tool_call>\n{"name": "f", "arguments": {"a"', ": 1", "2", "}}\n</tool")
    ]
    assert [[part["function"] for delta in step for part in delta["tool_calls"]] for step in deltas] == [
        [{"name": "f", "arguments": ""}, {"arguments": '{"a"'}],
        [{"arguments": ": 1"}],
        [{"arguments": "2"}],
        [{"arguments": "}"}],
    ]


def test_a_call_that_was_cut_off_is_told_as_far_as_it_came() -> None:
    reader = CallReader(EXPLAINED)
    whole = reader.whole('<tool_call>\n{"name": "f", "arguments": {"a": "北')
    assert whole["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": "北'}
    assert reader.reason("length") == "length"


def test_a_function_that_was_named_is_no_reason_to_have_ended() -> None:
    reader = CallReader(EXPLAINED, forced=True)
    reader.feed(EXPLAINED.write(TWO))
    assert reader.reason("stop") == "stop"
