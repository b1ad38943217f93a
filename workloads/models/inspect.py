"""What lies in a model's folder: config.json and the headers of the weights are read, never the weights.

So a wrong folder, a wrong vocabulary or a sequence that is too long is refused before anything large is loaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.sources import RopeScaling
from workloads.errors import InputError, SpecError
from workloads.models import safetensors_io
from workloads.system.describe import contents, nearby

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Shapes = dict[str, tuple[int, ...]]
"""Shape of every weight, by name."""

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
GENERATION_CONFIG = "generation_config.json"
EMBEDDING = "embed_tokens"
HEAD = "lm_head"


@dataclass(frozen=True)
class Base:
    """A base model's folder, looked into."""

    folder: Path
    config: dict[str, Any]
    shapes: Shapes

    @property
    def rows(self) -> int:
        """Rows of the input embedding: the largest token id that the model knows, plus one."""
        return next((shape[0] for name, shape in self.shapes.items() if name.endswith(f"{EMBEDDING}.weight")), 0)

    @property
    def tied(self) -> bool:
        """Whether the output head is the input embedding."""
        return not any(name.endswith(f"{HEAD}.weight") for name in self.shapes)


def inspect_model(folder: Path, field: str, uri: str) -> Base:
    """A model of any kind, quantized ones among them. Raises InputError, which begins with ``field`` and ``uri``, for what is no model."""
    label = f"{field} {uri}"
    if not folder.is_dir():
        raise InputError(f"{label}: there is no folder {folder}{nearby(folder)}")
    config_file = folder / "config.json"
    if not config_file.is_file():
        if (folder / ADAPTER_CONFIG).is_file():
            raise InputError(
                f"{label} is a LoRA adapter, not a base model: name its base there, and the adapter under spec.adapter"
            )
        raise InputError(f"{label}: {folder} has no config.json{contents(folder)}")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{label}: {config_file} is no JSON ({error}): copy the model again") from error
    return Base(folder, config, _shapes(folder, label))


def check_vocabulary(base: Base, tokenizer: PreTrainedTokenizerBase, label: str) -> None:
    """Refuse a tokenizer that the embedding is too small for."""
    if len(tokenizer) > base.rows:
        raise InputError(
            f"{label}: its tokenizer has {len(tokenizer)} tokens and its embedding {base.rows} rows, so ids from "
            f"{base.rows} on have no vector: put the tokenizer there that the model was trained with"
        )


def check_positions(base: Base, scaling: RopeScaling | None, length: int, field: str) -> None:
    """Refuse a ``length``, which the spec calls ``field``, that the positions are too few for."""
    limit = base.config.get("max_position_embeddings")
    if limit is None:
        return
    reach = int(limit * (scaling.factor if scaling else 1))
    if length > reach:
        raise SpecError(
            f"{field} {length} is beyond the {reach} positions of the model"
            f"{' with its ropeScaling' if scaling else ''}: lower it to {reach}, or set model.ropeScaling.factor to "
            f"{-(-length // limit)} or more"
        )


def with_rows(base: Base, rows: int) -> Base:
    """``base`` as it will be once its embeddings have ``rows`` rows."""
    ends = (f"{EMBEDDING}.weight", f"{HEAD}.weight")
    shapes = {name: (rows, *shape[1:]) if name.endswith(ends) else shape for name, shape in base.shapes.items()}
    return replace(base, shapes=shapes)


def weight_files(folder: Path, label: str) -> list[Path]:
    """The safetensors files of a model. Raises InputError, which begins with ``label``, for one that is missing."""
    index = folder / safetensors_io.INDEX
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = [safetensors_io.WHOLE]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        if index.is_file():
            raise InputError(
                f"{label}: model.safetensors.index.json names {len(names)} files and {', '.join(missing[:3])} is missing: copy the model again"
            )
        if any(folder.glob("*.bin")):
            raise InputError(
                f"{label}: {folder} has weights as .bin (pickle) only, which can run code when loaded: convert them to safetensors, or "
                "name a revision that has them"
            )
        raise InputError(f"{label}: {folder} has a config.json and no weights (model.safetensors){contents(folder)}")
    return [folder / name for name in names]


def _shapes(folder: Path, label: str) -> Shapes:
    """Shapes of all weights of a model, from the headers of its safetensors files."""
    return {
        name: tensor.shape
        for file in weight_files(folder, label)
        for name, tensor in safetensors_io.tensors(file, label).items()
    }
