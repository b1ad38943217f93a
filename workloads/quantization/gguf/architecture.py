"""What a GGUF file says of a model of Llama's kind: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, in `gguf`'s own words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workloads.errors import InputError, SpecError
from workloads.models.inspect import Base

if TYPE_CHECKING:
    import torch
    from gguf import GGUFWriter
    from transformers import PretrainedConfig

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""llama.cpp's name for each `model_type`. A Mistral is a Llama to it."""
INTERLEAVED = ("llama",)
"""Architectures of llama.cpp whose rotary positions turn neighbouring values; transformers turns those half a head apart."""
ROPE_TYPES = ("default", "linear", "yarn", "llama3")
"""Ways of stretching positions that both compute alike."""


def check(base: Base, label: str) -> None:
    """Refuse by config.json what cannot be written. Raises InputError, which begins with ``label``, or SpecError for the rope scaling."""
    if "quantization_config" in base.config:
        how = base.config["quantization_config"].get("quant_method", "quantized")
        raise InputError(f"{label} is quantized already ({how}): name the model that it was made from")
    kind = base.config.get("model_type")
    if kind not in ARCHITECTURES:
        raise InputError(
            f"{label}: config.json says model_type {kind}: models of type {', '.join(ARCHITECTURES)} are written as GGUF"
        )
    if base.rope_scaling is not None and base.rope_scaling.type not in ROPE_TYPES:
        raise SpecError(
            f"model.ropeScaling.type {base.rope_scaling.type}: llama.cpp does not stretch positions so: set it to linear or yarn, or "
            "remove ropeScaling"
        )


def of(base: Base) -> str:
    """llama.cpp's name for the model's architecture."""
    return ARCHITECTURES[str(base.config["model_type"])]


def add_to(writer: GGUFWriter, config: PretrainedConfig, label: str) -> None:
    """The numbers of the model. Raises InputError, which begins with ``label``, for positions that llama.cpp would compute otherwise."""
    from gguf import RopeScalingType

    writer.add_context_length(context(config))
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head_width(config))
    writer.add_value_length(head_width(config))
    writer.add_rope_dimension_count(head_width(config))
    rope = config.rope_parameters or {}
    kind = str(rope.get("rope_type", "default"))
    if kind not in ROPE_TYPES or "rope_theta" not in rope:
        raise InputError(
            f"{label}: config.json has a rope scaling of type {kind}, and models with {', '.join(ROPE_TYPES)} are written as GGUF"
        )
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(kind))
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if kind == "yarn":
        own = {"rope_type", "rope_theta", "factor", "original_max_position_embeddings"}
        others = sorted(name for name, value in rope.items() if name not in own and value is not None)
        if others:
            raise InputError(
                f"{label}: its yarn scaling has {', '.join(others)}, which are not written: name a model without them"
            )
        writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))


def context(config: PretrainedConfig) -> int:
    """Positions at which llama.cpp computes what transformers does: where attention slides, those of one window, as it does not."""
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return int(min(config.max_position_embeddings, window or config.max_position_embeddings))


def head_width(config: PretrainedConfig) -> int:
    """Values of one head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def rope_divisors(config: PretrainedConfig) -> torch.Tensor | None:
    """By how much each of the rotary frequencies is divided, for Llama-3's scaling, which llama.cpp reads as a tensor."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = config.rope_parameters or {}
    if rope.get("rope_type") != "llama3":
        return None
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    width = head_width(config)
    plain = float(rope["rope_theta"]) ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    return (plain / frequencies.double()).float()


def heads_of(name: str, config: Any, architecture: str) -> int | None:
    """Heads of a weight or bias whose rows llama.cpp wants in another order; None for all others."""
    if architecture not in INTERLEAVED:
        return None
    part = name.split(".")[-2]
    return {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(part)


def interleaved(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head (values, …) from first half, second half, to first of each half, second of each half, …"""
    halves = values.view(heads, 2, -1, *values.shape[1:])
    return halves.transpose(1, 2).reshape(values.shape)
