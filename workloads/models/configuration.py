"""transformers' configuration of a base, with what `inspect` and `rope` decided about it: the only place that makes one from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.errors import InputError
from workloads.models import libraries, rope
from workloads.models.inspect import Base, config_of
from workloads.system.describe import first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def configuration(base: Base, label: str) -> PretrainedConfig:
    """Raises InputError, which begins with ``label``, for a config.json that describes no model, or another one than the weights."""
    config = read(base.folder, label)
    if base.tied and not config.tie_word_embeddings:
        raise InputError(
            f"{label}: config.json unties the head from the embedding, and there is no lm_head.weight: copy the model again"
        )
    config.tie_word_embeddings = base.tied
    _check_shapes(base, config, label)
    if base.rope_scaling is not None:
        rope.apply(config, base.rope_scaling)
    return config


def read(folder: Path, label: str) -> PretrainedConfig:
    """What config.json says by itself. Raises InputError, which begins with ``label``, where it describes no model."""
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # it reads one file: whatever is wrong, is wrong in there
        file = folder / "config.json"
        kind = config_of(file, label).get("model_type")
        raise InputError(
            f"{label}: transformers cannot use {file} (model_type {kind}): {_line(error)}. Models that bring their own code are not loaded: use "
            "a Llama architecture, or correct the value"
        ) from error
    return config


def _check_shapes(base: Base, config: Any, label: str) -> None:
    """Raises InputError where no model can be made of the configuration, or the weights are of another."""
    import torch
    from transformers import AutoModelForCausalLM

    file = base.folder / "config.json"
    try:
        with torch.device("meta"), libraries.whole_models():
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # nothing but the configuration goes into it
        raise InputError(f"{label}: no model can be made of {file}: {_line(error)}: correct that value") from error
    for name, parameter in empty.named_parameters():
        found = base.tensors.get(name)
        if found is not None and "quantization_config" not in base.config and found.shape != tuple(parameter.shape):
            raise InputError(
                f"{label}: {name} is {_by(found.shape)} in {found.file.name} and {_by(parameter.shape)} by config.json: the two files "
                "do not belong together, copy the model again"
            )


def _line(error: Exception) -> str:
    """What a library says, in one line; an error of a look-up has the value alone."""
    if isinstance(error, KeyError) and len(str(error).split()) == 1:
        return f"it knows no {error}"
    text = " ".join(str(error).split())
    return text if len(text) < 300 else first_line(error)


def _by(shape: Any) -> str:
    return "×".join(map(str, shape))
