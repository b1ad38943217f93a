"""A base model comes into memory, as wide and with the attention that was decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from workloads.errors import InputError, OutOfMemory, SpecError
from workloads.models.configuration import configuration
from workloads.models.inspect import Base
from workloads.system.describe import first_line
from workloads.system.hardware import local_rank

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Bits = Literal[4, 8]
"""What bitsandbytes holds a weight in."""
LONGEST_TEXT = 600
"""Characters of what a library says; the word that matters (a key of DeepSpeed's) may stand behind its first line."""


@dataclass(frozen=True)
class LoadOptions:
    """How the weights of a base are held in memory, and what computes with them."""

    precision: Literal["fp32", "bf16", "fp16"]
    """Of the matrix products (autocast)."""
    weights: Literal["float32", "bfloat16", "float16"]
    """Of the base's weights in memory; those that train in an adapter are always float32."""
    bits: Bits | None
    """Set when the base is held quantized: 4 (nf4, double quantization) or 8 (int8)."""
    attention: str
    spread: Mapping[int | str, int] | None = field(default=None, kw_only=True)
    """Bytes that weights may take of each device, where one is not enough for them: layers lie on all of these, one after the other."""


def load_base(base: Base, label: str, options: LoadOptions) -> PreTrainedModel:
    """The base in memory, as the options say. Raises InputError, which begins with ``label``, when its files are not whole, SpecError
    when the libraries refuse to load it so, and OutOfMemory where it is spread over devices that it does not fit on."""
    model = _read_weights(base, configuration(base, label), options, label)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes repacks 4-bit weights at the first evaluation for a kernel without a gradient, and never back: on a CPU
            # with AVX512-BF16 the steps after it would train on wrong gradients.
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    model.config.use_cache = False  # packed rows are kept apart by their positions only without a cache
    return model


def _read_weights(base: Base, config: PretrainedConfig, options: LoadOptions, label: str) -> PreTrainedModel:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    placed: dict[str, Any] = {}
    if options.spread:
        placed = {"device_map": "auto", "max_memory": dict(options.spread)}
    if options.bits:
        placed["quantization_config"] = _quantization(options)
        placed["device_map"] = {"": f"cuda:{local_rank()}" if torch.cuda.is_available() else "cpu"}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base.folder,
            config=config,
            dtype=getattr(torch, options.weights),
            attn_implementation=options.attention,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **placed,
        )
    except (OSError, SafetensorError) as error:
        raise InputError(f"{label}: the weights cannot be read: {first_line(error)}: copy the model again") from error
    except (ValueError, ImportError) as error:
        # Names and sizes were held against config.json before: what is refused here is how it is to be loaded.
        raise SpecError(
            f"{label} cannot be loaded as it is to be ({_how(options)}): {' '.join(str(error).split())[:LONGEST_TEXT]}"
        ) from error
    model: PreTrainedModel = loaded[0]
    if options.spread and "disk" in getattr(model, "hf_device_map", {}).values():
        # accelerate would read it from there for each token anew.
        raise OutOfMemory(f"{label}: its layers do not fit on {len(options.spread)} devices")
    missing = sorted(loaded[1]["missing_keys"])
    if missing:
        # transformers would go on with random weights in their place, and only warn.
        raise InputError(
            f"{label}: {len(missing)} weights that config.json asks for are not in the files ({', '.join(missing[:3])}, …): copy the "
            "model again"
        )
    return model


def _how(options: LoadOptions) -> str:
    bits = f", {options.bits} bits" if options.bits else ""
    return f"attention {options.attention}, weights {options.weights}{bits}"


def _quantization(options: LoadOptions) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if options.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[options.precision]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def name_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the model's configuration name the ids that its new tokenizer has for begin, end and padding."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for config in (model.config, model.generation_config):
            if config is not None:
                setattr(config, name, getattr(tokenizer, name))
    generation = model.generation_config
    if generation is not None:
        try:
            generation.validate(strict=True)
        except ValueError:
            # Early Llama-2 copies name a temperature without sampling; once changed, such a configuration cannot be saved.
            generation.do_sample = True
