"""A LoRA adapter's files as PEFT writes them: read, checked in themselves and against the model that they are to be put on."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads.errors import DataError, InputError, SpecError
from workloads.models import safetensors_io, weight_files
from workloads.models.inspect import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from workloads.models.weights import EMBEDDING, HEAD
from workloads.system.describe import contents, nearby

PREFIX = "base_model.model."
"""Before every name in PEFT's files."""
LORA = re.compile(
    r"(?P<layer>.+)\.(?:(?P<part>lora_[AB]|lora_magnitude_vector)(?:\.weight)?|lora_embedding_(?P<end>[AB]))"
)
INITIALISED = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of PEFT's `init_lora_weights` that leave the base as it is. The others (PiSSA, OLoRA, …) take something out of it first."""


@dataclass
class LoRAUpdate:
    """What an adapter does to one weight."""

    whole: safetensors_io.Tensor | None = None
    """Takes its place (modulesToSave)."""
    lora_A: safetensors_io.Tensor | None = None
    """LoRA's A, of shape (rank, inputs)."""
    lora_B: safetensors_io.Tensor | None = None
    """LoRA's B, of shape (outputs, rank)."""
    magnitude: safetensors_io.Tensor | None = None
    """DoRA's, a value for each output."""
    embeds: bool = False
    """An embedding: A has a column for each row of the weight, and inputs and outputs are swapped."""
    scale: float = 1.0
    """Alpha divided by the rank, or by its root (rsLoRA)."""

    @property
    def change(self) -> tuple[int, ...] | None:
        """The shape of B·A, as the weight lies."""
        if self.lora_A is None or self.lora_B is None:
            return None
        shape = (self.lora_B.shape[0], self.lora_A.shape[1])
        return shape[::-1] if self.embeds else shape


@dataclass(frozen=True)
class LoRAAdapter:
    """A LoRA adapter in its folder."""

    folder: Path
    label: str
    """How messages name it."""
    config: dict[str, Any]
    updates: dict[str, LoRAUpdate]
    """By the name of the weight."""
    shapes: dict[str, tuple[int, ...]]
    """Of every tensor in its file, by the name that PEFT gave it."""
    weight: float = 1.0
    """Factor on its update."""

    @classmethod
    def open(cls, folder: Path, label: str, weight: float = 1.0) -> LoRAAdapter:
        """Read what it says about itself; whether it fits a base is asked of `adapter_names`.

        Raises InputError, DataError or SpecError for one of another kind, which can neither be loaded nor merged.
        """
        if not folder.is_dir():
            raise InputError(f"{label}: there is no folder {folder}{nearby(folder)}")
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            if not (folder / name).is_file():
                raise InputError(
                    f"{label}: {folder} has no {name}{contents(folder)}: name the folder of a LoRA adapter, saved as safetensors"
                )
        try:
            config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise InputError(
                f"{label}: {ADAPTER_CONFIG} cannot be read as JSON ({error}): copy the adapter again"
            ) from error
        if not isinstance(config, dict):
            raise InputError(f"{label}: {ADAPTER_CONFIG} is no JSON object: copy the adapter again")
        if config.get("peft_type") != "LORA":
            raise InputError(f"{label} is of type {config.get('peft_type')}: only LoRA adapters are read")
        if config.get("init_lora_weights", True) not in INITIALISED:
            raise SpecError(
                f"{label} was initialised by {config['init_lora_weights']}, which takes its start out of the base: save it again as a plain "
                "LoRA (path_initial_model_for_weight_conversion in PEFT)"
            )
        tensors = safetensors_io.tensors(folder / ADAPTER_WEIGHTS, label)
        for other in sorted(folder.glob(f"{Path(ADAPTER_WEIGHTS).stem}*")):
            if other.name != ADAPTER_WEIGHTS:
                weight_files.must_say_the_same(other, tensors, label)
        updates = _updates(tensors, config, label)
        if not updates:
            raise DataError(f"{label}: {ADAPTER_WEIGHTS} has no tensors: the training that made it saved nothing")
        return cls(folder, label, config, updates, {name: tensor.shape for name, tensor in tensors.items()}, weight)

    @property
    def rows(self) -> int | None:
        """Rows of the embeddings that it brings; None for one that brings none."""
        for name, update in self.updates.items():
            if name.endswith((EMBEDDING, HEAD)):
                shape = update.whole.shape if update.whole else update.change
                if shape:
                    return shape[0]
        return None


def weight_of(key: str) -> str | None:
    """The weight of the base that a tensor of PEFT's file changes; None for a tensor that can neither be loaded nor merged here."""
    name = key.removeprefix(PREFIX)
    part = LORA.fullmatch(name)
    if part is not None:
        return f"{part['layer']}.weight"
    if ".lora_" in name or not name.endswith((".weight", ".bias")):
        return None
    return name.replace(".base_layer.", ".")


def _updates(tensors: dict[str, safetensors_io.Tensor], config: dict[str, Any], label: str) -> dict[str, LoRAUpdate]:
    """What PEFT's file says, by the names of the base's weights. Raises DataError for what is no LoRA."""
    updates: dict[str, LoRAUpdate] = {}
    for key, tensor in tensors.items():
        weight = weight_of(key)
        if weight is None:
            raise DataError(f"{label}: {ADAPTER_WEIGHTS} has {key}, which is no part of a LoRA that is read here")
        update = updates.setdefault(weight, LoRAUpdate())
        part = LORA.fullmatch(key.removeprefix(PREFIX))
        if part is None:
            update.whole = tensor
        elif part["part"] == "lora_magnitude_vector":
            update.magnitude = tensor
        elif (part["end"] or part["part"][-1]) == "A":
            update.lora_A = tensor
        else:
            update.lora_B = tensor
        update.embeds = update.embeds or bool(part and part["end"])
    for name, update in updates.items():
        update.scale = _scale(name, update, config, label)
    return updates


def _scale(name: str, update: LoRAUpdate, config: dict[str, Any], label: str) -> float:
    """The factor on B·A that the configuration gives; 1 without one. Raises DataError where the update is not whole, or of another rank."""
    if (update.lora_A is None) != (update.lora_B is None) or (update.magnitude and update.lora_A is None):
        raise DataError(f"{label}: {ADAPTER_WEIGHTS} has only a part of the update of {name}: copy the adapter again")
    if update.lora_A is None or update.lora_B is None:
        return 1.0
    layer = name.removesuffix(".weight")
    try:
        rank = int(_pattern(config, "rank_pattern", layer, config.get("r")))
        alpha = float(_pattern(config, "alpha_pattern", layer, config.get("lora_alpha")))
        scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    except (TypeError, ValueError, AttributeError, ArithmeticError, re.error) as error:
        raise DataError(
            f"{label}: {ADAPTER_CONFIG} gives {layer} no rank and alpha that are numbers (r, lora_alpha and their patterns: {error}): copy "
            "the adapter again"
        ) from error
    if not update.lora_A.shape[0] == update.lora_B.shape[1] == rank:
        raise DataError(
            f"{label}: {ADAPTER_CONFIG} gives {layer} the rank {rank} and its matrices have {update.lora_A.shape[0]} and "
            f"{update.lora_B.shape[1]}: the two files do not belong together"
        )
    return scale


def _pattern(config: dict[str, Any], key: str, layer: str, default: Any) -> Any:
    """The value for a layer, where the adapter's configuration names some layers apart (by regular expression, as PEFT does)."""
    patterns: dict[str, Any] = config.get(key) or {}
    return next((value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", layer)), default)
