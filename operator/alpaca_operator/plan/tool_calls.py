"""What finds calls of tools in the answers that vLLM writes: each family of models has its own way to write them."""

from __future__ import annotations

import re

from alpaca_operator.api.chat import AUTO_PARSER, NO_PARSER, ChatSpec

BY_NAME = (
    (r"hermes-[23]-.*", "hermes"),
    (r"qwen2\.5-coder-.*", NO_PARSER),  # it writes calls in blocks of code, in no form that vLLM reads
    (r"qwen2\.5-.*instruct.*|qwq-32b.*|qwen3-\d.*", "hermes"),
    (r"qwen3-coder-.*", "qwen3_xml"),
    (r"(meta-)?llama-3\.[123]-.*instruct.*", "llama3_json"),
    (r"mistral-(7b-instruct-v0\.3|nemo-instruct|small-.*instruct|large-instruct).*", "mistral"),
    (r"glm-4\.[56].*", "glm45"),
    (r"glm-4\.7.*", "glm47"),
)
"""Names on a hub, without their owner and in small letters; the first that fits counts. As vLLM's documentation has them, of those whose
own chat template is told of tools."""


def parser(spec: ChatSpec) -> str:
    """The name of vLLM's parser, or NO_PARSER where none is known: a model on a volume does not tell the operator what it is."""
    given = spec.vllm.tool_call_parser if spec.vllm else AUTO_PARSER
    if given != AUTO_PARSER:
        return given
    uri = (spec.model and spec.model.uri) or ""
    if not uri.startswith("hf://"):
        return NO_PARSER
    name = uri.removeprefix("hf://").partition("@")[0].rpartition("/")[2].lower()
    return next((found for pattern, found in BY_NAME if re.fullmatch(pattern, name)), NO_PARSER)
