"""Which kernels of attention a model computes with: transformers knows for each architecture, and refuses the others only as it loads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KERNELS = ("flash_attention_3", "flash_attention_2", "sdpa", "eager")
"""The fastest first."""


def kernels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that a model with this config.json computes with; all of them for an architecture that transformers does not know, which is
    refused where it is loaded."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING or CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return KERNELS
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[kind]]
    flash = bool(model._supports_flash_attn)
    able = {"flash_attention_3": flash, "flash_attention_2": flash, "sdpa": bool(model._supports_sdpa), "eager": True}
    return tuple(kernel for kernel in KERNELS if able[kernel])


def plain(config: Mapping[str, Any]) -> str:
    """The kernel for a model that is not trained: sdpa, or eager where the model is computed with no other."""
    return "sdpa" if "sdpa" in kernels_of(config) else "eager"
