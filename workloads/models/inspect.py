"""What lies in a model's folder: config.json and the headers of the weights.

It is decided here, once for every reader: which files are the model, whether its head is its embedding, and how its positions are
stretched. So a wrong folder, a wrong vocabulary or a sequence that is too long is refused before anything large is loaded.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.sources import RopeScaling
from workloads.errors import InputError, SpecError
from workloads.models import weight_files
from workloads.models.safetensors_io import Tensor
from workloads.models.weight_files import EMBEDDING, HEAD
from workloads.system.describe import contents, nearby

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Shapes = dict[str, tuple[int, ...]]
"""Shape of every weight, by name."""

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
GENERATION_CONFIG = "generation_config.json"


SAVED_AS = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Types that a result is saved in, as torch calls them, with the bytes of a value."""
FLOATS = (*SAVED_AS, "float64", "float8_e4m3fn", "float8_e5m2")
"""Types that a config.json may give a model's weights."""


@dataclass(frozen=True)
class Base:
    """A base model's folder, looked into."""

    folder: Path
    config: dict[str, Any]
    shapes: Shapes
    """Of every weight; without a head that is the embedding."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Where each weight lies; empty for a model that is still to be made."""
    rope_scaling: RopeScaling | None = None
    """How its positions are stretched beyond what config.json says."""

    @property
    def rows(self) -> int:
        """Rows of the input embedding: the largest token id that the model knows, plus one."""
        return next((shape[0] for name, shape in self.shapes.items() if name.endswith(f"{EMBEDDING}.weight")), 0)

    @property
    def tied(self) -> bool:
        """Whether the output head is the input embedding. The weights say so, whatever config.json does."""
        return not any(name.endswith(f"{HEAD}.weight") for name in self.shapes)

    @property
    def files(self) -> list[Path]:
        """Those that its weights are in."""
        return sorted({tensor.file for tensor in self.tensors.values()})

    def bytes_as(self, dtype: str) -> int:
        """What its weights take in this type."""
        return SAVED_AS[dtype] * sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def dtype(self) -> str:
        """The type of most of its weights, which a result of it has too."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors.values():
            sizes[tensor.dtype] += tensor.size
        return next((dtype for dtype, _ in sizes.most_common() if dtype in SAVED_AS), "float32")


def inspect_model(folder: Path, field: str, uri: str) -> Base:
    """A model of any kind, quantized ones among them. Raises InputError, which begins with ``field`` and ``uri``, for what is no model."""
    label = f"{field} {uri}"
    if not folder.is_dir():
        raise InputError(f"{label}: there is no folder {folder}{nearby(folder)}")
    config_file = folder / "config.json"
    if (folder / ADAPTER_CONFIG).is_file():
        if not config_file.is_file():
            raise InputError(
                f"{label} is a LoRA adapter, not a base model: name its base there, and the adapter under spec.adapter"
            )
        # transformers would load the base that the adapter names, and not this folder.
        raise InputError(
            f"{label}: {folder} holds a model and an adapter ({ADAPTER_CONFIG}): move the adapter into a folder of its own"
        )
    if not config_file.is_file():
        raise InputError(f"{label}: {folder} has no config.json{contents(folder)}")
    config = config_of(config_file, label)
    tensors = weight_files.tensors_of(folder, config, label)
    _drop_second_copy_of_embedding(tensors, config, label)
    return Base(folder, config, {name: tensor.shape for name, tensor in tensors.items()}, tensors)


def config_of(file: Path, label: str) -> dict[str, Any]:
    """A config.json. Raises InputError, which begins with ``label``, for one that cannot be read."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{label}: {file} cannot be read as JSON ({error}): copy the model again") from error
    if not isinstance(config, dict):
        raise InputError(f"{label}: {file} is no JSON object: copy the model again")
    for key in ("dtype", "torch_dtype"):
        dtype = config.get(key)
        if dtype is not None and (not isinstance(dtype, str) or dtype not in FLOATS):
            raise InputError(
                f"{label}: {file}: {key} is {json.dumps(dtype)}, which torch does not know: set it to one of {', '.join(SAVED_AS)}"
            )
    return config


def _drop_second_copy_of_embedding(tensors: dict[str, Tensor], config: Mapping[str, Any], label: str) -> None:
    """Where config.json ties the head to the embedding and the files hold the same twice, the two are one. Another head is its own:
    it was trained apart, and config.json is wrong."""
    embedding = next((name for name in tensors if name.endswith(f"{EMBEDDING}.weight")), None)
    head = next((name for name in tensors if name.endswith(f"{HEAD}.weight")), None)
    tied = config.get("tie_word_embeddings")
    if head is None and tied is False:
        raise InputError(
            f"{label}: config.json unties the head from the embedding, and there is no {HEAD}.weight: copy the model again"
        )
    if tied and head and embedding and weight_files.same_bytes(tensors[embedding], tensors[head]):
        del tensors[head]


def check_vocabulary(base: Base, tokenizer: PreTrainedTokenizerBase, label: str) -> None:
    """Refuse a tokenizer that the embedding is too small for."""
    from workloads.data import tokenize

    rows = tokenize.rows_of(tokenizer)
    if rows > base.rows:
        raise InputError(
            f"{label}: its tokenizer has ids up to {rows - 1} and its embedding {base.rows} rows, so ids from "
            f"{base.rows} on have no vector: put the tokenizer there that the model was trained with"
        )


def check_positions(base: Base, length: int, field: str) -> None:
    """Refuse a ``length``, which the spec calls ``field``, that the positions are too few for."""
    limit, scaling = base.config.get("max_position_embeddings"), base.rope_scaling
    if limit is None:
        return
    reach = int(limit * (scaling.factor if scaling else 1))
    if length > reach:
        stretch = f", or set model.ropeScaling.factor to {-(-length // limit)} or more"
        raise SpecError(
            f"{field} {length} is beyond the {reach} positions of the model"
            f"{' with its ropeScaling' if scaling else ''}: lower it to {reach}{'' if own_scaling(base.config) else stretch}"
        )


def own_scaling(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rope scaling that a config.json has, by its old name or its new one; None for positions as they are."""
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kinds = [
        found,
        *(part for part in found.values() if isinstance(part, Mapping)),
    ]  # some models have one for each kind of layer
    return next((dict(part) for part in kinds if rope_type(part) != "default"), None)


def rope_type(parameters: Mapping[str, Any]) -> str:
    return str(parameters.get("rope_type") or parameters.get("type") or "default")


def with_rows(base: Base, rows: int) -> Base:
    """``base`` as it will be once its embeddings have ``rows`` rows."""
    ends = (f"{EMBEDDING}.weight", f"{HEAD}.weight")
    shapes = {name: (rows, *shape[1:]) if name.endswith(ends) else shape for name, shape in base.shapes.items()}
    return replace(base, shapes=shapes)
