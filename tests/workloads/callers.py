"""Models that call tools, whatever they are asked: one by its own template, one by the words of a prompt.

Both speak in pieces that no other text of theirs has, as a parrot has one successor for each token.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from tests.workloads import parrot
from workloads.data.chat_templates.loading import load

AGENT = """{%- if tools %}{{- bos_token + 'System: ' + (tools | tojson) + '\\n' + eos_token }}{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- bos_token + ('Assistant!' if loop.previtem is defined and loop.previtem.role == 'tool' else 'Assistant:') }}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- ('\\n' if not loop.first or message.content else '') + '<tool_call>' + (call.function | tojson) + '</tool_call>' }}
        {%- endfor %}
        {{- eos_token }}
    {%- elif message.role == 'tool' %}
        {{- bos_token + 'Tool: ' + message.content + '\\n' + eos_token }}
    {%- else %}
        {{- bos_token + ('System: ' if message.role == 'system' else 'Human: ') + message.content + '\\n' + eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- bos_token + ('Assistant!' if messages[-1].role == 'tool' else 'Assistant:') }}
{%- endif %}"""
"""What a tool gave is answered behind another sign, so that a parrot can tell."""
OWN = [
    "看看。",
    "\n<tool_call>",
    '{"name": "',
    "weather",
    '", "arguments": ',
    '{"city": "',
    "北京",
    '"}',
    "}</tool_call>",
]
EXPLAINED = [
    '<tool_call>\n{"name": "', "weather", '", "arguments": ', '{"city": "', "北京", '"}',
    '}\n</tool_call>\n<tool_call>\n{"name": "clock', '", "arguments": {"zone": 8}}\n</tool_call>',
]  # fmt: skip
ANSWER = "晴天"
DAY = ['"city": "上海"', ', "degrees": 21, "rain": ', "true}"]
"""What `told` says behind a brace that stands alone: an answer in a form begins so."""
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "parameters": {"type": "object", "properties": {"zone": {"type": "integer"}}, "required": ["zone"]},
    },
}


def write(folder: Path, llama: Any) -> None:
    """`agent`, with tools in its template, and `told`, in the format HumanAssistant."""
    tokenizer = copy.deepcopy(llama)
    words = sorted({*OWN, *EXPLAINED, *DAY, ANSWER})
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    told = load("HumanAssistant", None, tokenizer)
    day = tokenizer.convert_tokens_to_ids(["<0x7B>", *DAY])
    lines = [_line(told, [], EXPLAINED), [*day, tokenizer.eos_token_id]]
    parrot.write(folder / "told", tokenizer, lines, max_position_embeddings=16_000)
    tokenizer.chat_template = AGENT
    agent = load("FromModel", None, tokenizer)
    result = [{"role": "assistant", "content": "看"}, {"role": "tool", "content": "晴"}]
    lines = [_line(agent, [], OWN), _line(agent, result, [ANSWER])]
    parrot.write(folder / "agent", tokenizer, lines, max_position_embeddings=16_000)


def _line(template: Any, more: list[dict[str, Any]], words: list[str]) -> list[int]:
    last = template.prompt([{"role": "user", "content": "问"}, *more])[-1]
    return [last, *template.tokenizer.convert_tokens_to_ids(words), template.tokenizer.eos_token_id]
