"""What is refused before a training loads anything: a quantized base, a tokenizer or a length that does not fit, a package that is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alpaca_operator.api.sources import ModelSource
from workloads.errors import InputError, SpecError
from workloads.models.inspect import Base, check_positions, check_vocabulary, inspect_model
from workloads.system.hardware import is_installed
from workloads.training import method
from workloads.training.method import Spec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_trackers(spec: Spec) -> None:
    """Refuse a tracker whose package is not installed."""
    if "WandB" in spec.training.report_to and not is_installed("wandb"):
        raise SpecError(
            "training.reportTo names WandB and the package wandb is not installed: add it to the image (pip install wandb), or remove "
            "WandB from reportTo"
        )


def inspect_trainable(folder: Path, field: str, uri: str, spec: Spec) -> Base:
    """What the folder says about its model. Raises InputError that says what is missing and what lies there instead."""
    base = inspect_model(folder, field, uri)
    if "quantization_config" in base.config:
        how = base.config["quantization_config"].get("quant_method", "quantized")
        raise InputError(
            f"{field} {uri} is quantized already ({how}), which cannot be trained: name the unquantized model, and "
            f"{method.of(spec).words.smaller} to hold it in 4 bits"
        )
    return base


def check_tokenizer_and_length(base: Base, tokenizer: PreTrainedTokenizerBase, source: ModelSource, spec: Spec) -> None:
    """Refuse a tokenizer that the embedding is too small for, and a sequence that the positions are too few for."""
    check_vocabulary(base, tokenizer, f"spec.model {source.uri}")
    check_length(base, spec)


def check_length(base: Base, spec: Spec) -> None:
    """Refuse a sequence that the positions are too few for."""
    how = method.of(spec)
    check_positions(base, how.length, how.words.length)


def optional_packages(spec: Spec) -> dict[str, bool]:
    """Which optional packages a job uses: the arguments of `libraries.quiet`."""
    return {
        "bitsandbytes": method.of(spec).bits is not None or "8bit" in spec.training.optimizer,
        "deepspeed": spec.deepspeed is not None,
    }
