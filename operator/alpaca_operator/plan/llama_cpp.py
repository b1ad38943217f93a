"""llama.cpp as the engine: what it cannot do."""

from __future__ import annotations

from alpaca_operator.api.chat import ChatSpec
from alpaca_operator.api.sources import sources
from alpaca_operator.plan import vllm


def unable(spec: ChatSpec) -> str | None:
    """Why llama.cpp does not serve this spec, and what to do; None where it does."""
    if vllm.devices(spec):
        return "engine LlamaCpp runs on CPUs, and pod.resources asks for a GPU: remove it, or set engine to Transformers and name the model that the file was made of"
    for field, source in sources(spec):
        if field.endswith("model") and (source.uri or "").startswith(("hf://", "ms://")):
            return (
                f"{field} is {source.uri}, and a repository of a hub holds a GGUF file for each type: download the one that you want to a "
                "volume, and name its folder"
            )
    return None
