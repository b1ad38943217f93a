"""How calls of tools are written, read off the templates that models bring along, and the words for models whose template has none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.workloads.data.test_model_templates import CALL, TOOL, byte_level_state, tokenizer_of  # noqa: F401
from workloads.data.chat_templates.loading import load
from workloads.serving.engine.tools import prompt
from workloads.serving.engine.tools.call_format import EXPLAINED, CallFormat, of_template

QWEN = CallFormat("", '<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n", "")
LLAMA = CallFormat("", '{"name": "', '", "parameters": ', "}", None, "")
LISTED = """{%- if tools %}{{- bos_token + '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls is defined %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in message.tool_calls %}{{- (call.function | tojson) + ('' if loop.last else ', ') }}{%- endfor %}
        {{- ']' + eos_token }}
    {%- elif message.role == 'tool' %}{{- '[TOOL_RESULTS]' + message.content + '[/TOOL_RESULTS]' }}
    {%- elif message.role == 'assistant' %}{{- ' ' + message.content + eos_token }}
    {%- else %}{{- '[INST] ' + message.content + '[/INST]' }}{%- endif %}
{%- endfor %}"""
"""Calls in one list behind one token, as in Mistral's first templates with tools."""


@pytest.mark.parametrize(
    ("model", "source", "expected", "trigger"),
    [
        pytest.param("qwen3", None, QWEN, "<tool_call>", id="each call in marks of its own"),
        pytest.param("llama3_1", None, LLAMA, "", id="an answer that is the call"),
        pytest.param(
            "mistral", LISTED, CallFormat("[TOOL_CALLS] [", '{"name": "', '", "arguments": ', "}", ", ", "]"), "[TOOL_CALLS]",
            id="a list behind a token",
        ),
        pytest.param("mistral", None, None, None, id="calls with ids, which no model can know"),
        pytest.param("deepseek_r1_distill", None, None, None, id="a template that never tells of the tools"),
    ],
)  # fmt: skip
def test_the_format_of_calls_is_read_off_the_template(
    byte_level_state: str,  # noqa: F811
    model: str,
    source: str | None,
    expected: CallFormat | None,
    trigger: str | None,
) -> None:
    found = of_template(load("FromModel", None, tokenizer_of(byte_level_state, model, source), live_clock=True))
    assert found == expected
    assert (found.trigger if found else None) == trigger


@pytest.mark.parametrize("name", ["HumanAssistant", "Llama2"])
def test_our_named_formats_have_no_tools(llama: Any, name: str) -> None:
    assert of_template(load(name, None, llama)) is None


def test_calls_are_written_in_the_format() -> None:
    assert EXPLAINED.write([CALL, CALL]).count("<tool_call>") == 2
    assert LLAMA.write([CALL]) == '{"name": "weather", "parameters": {"city": "北京", "days": 3}}'


def question(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


RESULT = {"role": "tool", "content": "晴", "tool_call_id": "abcdefghi"}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}


def test_calls_and_results_become_turns_of_questions_and_answers() -> None:
    told = prompt.in_words([question("天气？"), CALLED, RESULT, {**RESULT, "content": "雨"}, question("哪个？")])
    assert [message["role"] for message in told] == ["user", "assistant", "user"]
    assert told[1]["content"] == EXPLAINED.write([CALL])
    assert told[2]["content"] == (
        "<tool_response>\n晴\n</tool_response>\n<tool_response>\n雨\n</tool_response>\n哪个？"
    )


def test_two_questions_without_a_tool_stay_two() -> None:
    assert len(prompt.in_words([question("a"), question("b")])) == 2


@pytest.mark.parametrize(
    ("messages", "has_system", "roles"),
    [
        pytest.param([question("问")], True, ["system", "user"], id="as a system prompt where there is none"),
        pytest.param([{"role": "system", "content": "规"}, question("问")], True, ["system", "user"], id="behind the one that there is"),
        pytest.param([question("问")], False, ["user"], id="before the question where the format has no system prompt"),
    ],
)  # fmt: skip
def test_a_model_is_told_of_the_tools_first(messages: list[dict[str, Any]], has_system: bool, roles: list[str]) -> None:
    told = prompt.introduced(messages, [TOOL], has_system=has_system)
    assert [message["role"] for message in told] == roles
    assert json.dumps(TOOL["function"], ensure_ascii=False) in told[0]["content"]
    assert "".join(message["content"] for message in told).count("问") == 1
