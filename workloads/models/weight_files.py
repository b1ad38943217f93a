"""Which files of a folder are the model's weights: one set of them, whatever the program that looks.

Programs look for weights under several names and each takes what it finds first (model.safetensors, the shards of an index,
pytorch_model.bin, an adapter beside them). So a folder is taken only where all of them would find the same: every file that holds
weights is part of the set, or says the same as the set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.errors import InputError
from workloads.models import safetensors_io
from workloads.models.safetensors_io import Tensor
from workloads.system.describe import contents

if TYPE_CHECKING:
    import torch

EMBEDDING = "embed_tokens"
HEAD = "lm_head"
COMPUTED = ("rotary_emb.inv_freq",)
"""Old files have them; they follow from the configuration, and another rope scaling makes them wrong."""
PICKLES = (".bin", ".pt", ".pth")
"""Endings of files that torch pickles weights into, beside optimizers, schedules and arguments."""
AT_ONCE = 2**22
"""Bytes that are compared in a step."""


def tensors_of(folder: Path, config: Mapping[str, Any], label: str) -> dict[str, Tensor]:
    """Every weight of a model by its name, in the order of its files.

    Raises InputError, which begins with ``label``, for a file that is missing or damaged, and for a folder that holds two sets of
    weights.
    """
    files, places = _set_of(folder, config, label)
    found: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in safetensors_io.tensors(file, label).items():
            if name.endswith(COMPUTED):
                continue
            twice = found.get(name)
            if twice is not None and not same_bytes(twice, tensor):
                raise InputError(
                    f"{label}: {twice.file.name} and {file.name} hold two different {name}: copy the model again, or remove the file that is "
                    "not its own"
                )
            found.setdefault(name, tensor)
    gone = [name for name in places if name not in found and not name.endswith(COMPUTED)]
    if gone:
        raise InputError(
            f"{label}: {safetensors_io.INDEX} says that {gone[0]} is in {places[gone[0]]}, and {len(gone)} such weights are not there: copy "
            "the model again"
        )
    for file in sorted(folder.iterdir()):
        if file not in files and file.is_file():
            must_say_the_same(file, found, label)
    return found


def _set_of(folder: Path, config: Mapping[str, Any], label: str) -> tuple[list[Path], Mapping[str, str]]:
    """The files that transformers loads, in the order in which it looks for them; and where an index says that each weight is."""
    named = config.get("transformers_weights") or safetensors_io.WHOLE
    if (folder / named).is_file() and not str(named).endswith(".json"):
        return [folder / named], {}
    index = folder / (named if str(named).endswith(".json") else safetensors_io.INDEX)
    if not index.is_file():
        if any(folder.glob("*.bin")):
            raise InputError(
                f"{label}: {folder} has weights as .bin (pickle) only, which can run code when loaded: convert them to safetensors, or "
                "name a revision that has them"
            )
        raise InputError(f"{label}: {folder} has a config.json and no weights ({named}){contents(folder)}")
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{label}: {index.name} is no index of weights ({error}): copy the model again") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{label}: {index.name} names {len(names)} files and {', '.join(missing[:3])} is missing: copy the model again"
        )
    return [folder / name for name in names], places


def must_say_the_same(file: Path, ours: Mapping[str, Tensor], label: str) -> None:
    """Raises InputError for a file beside the model's own that holds other weights."""
    remedy = "keep one of the two in the folder"
    for name, theirs in _others(file, label):
        if name.endswith(COMPUTED):
            continue
        own = ours.get(name) or _tied_to(name, ours)
        if own is None:
            raise InputError(
                f"{label}: two sets of weights lie in one folder: {file.name} holds {name}, which {_files(ours)} does not have: {remedy}"
            )
        if not (same_bytes(own, theirs) if isinstance(theirs, Tensor) else _same_values(own, theirs)):
            raise InputError(
                f"{label}: two sets of weights lie in one folder: the {name} of {file.name} is not that of {own.file.name}: {remedy}"
            )


def _tied_to(name: str, ours: Mapping[str, Tensor]) -> Tensor | None:
    """The embedding, for a head that it stands for: other formats write the two out."""
    if not name.endswith(f"{HEAD}.weight"):
        return None
    return next((tensor for known, tensor in ours.items() if known.endswith(f"{EMBEDDING}.weight")), None)


def _others(file: Path, label: str) -> Iterator[tuple[str, Tensor | torch.Tensor]]:
    """The weights in a file, by name; none where it holds something else."""
    if file.suffix == ".safetensors":
        yield from safetensors_io.tensors(file, label).items()
    elif file.suffix in PICKLES:
        yield from _unpickled(file).items()


def _unpickled(file: Path) -> dict[str, torch.Tensor]:
    """What torch has pickled, where that is weights by name; nothing of it is run."""
    import pickle
    import zipfile

    import torch

    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError):
        return {}  # arguments, a random state, a pointer: nobody takes them for a model
    tensors = held if isinstance(held, dict) else {}
    whole = all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items())
    return tensors if whole else {}


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors on disk are the same; of two types they are where one is the other, rounded."""
    if one.shape != other.shape:
        return False
    if one.dtype != other.dtype:
        return _same_values(one, other.read())
    with one.file.open("rb") as left, other.file.open("rb") as right:
        left.seek(one.start)
        right.seek(other.start)
        for at in range(0, one.size, AT_ONCE):
            size = min(AT_ONCE, one.size - at)
            if left.read(size) != right.read(size):
                return False
    return True


def _same_values(one: Tensor, other: torch.Tensor) -> bool:
    import torch

    own = one.read()
    if own.shape != other.shape:
        return False
    return torch.equal(own.to(other.dtype), other) or torch.equal(own, other.to(own.dtype))


def _files(tensors: Mapping[str, Tensor]) -> str:
    names = sorted({tensor.file.name for tensor in tensors.values()})
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
