"""A trained model in the type and the files that it is published in: what trains is held wider."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from workloads.models import safetensors_io, weight_files

if TYPE_CHECKING:
    import torch

SHARD_SIZE = 5 * 10**9
"""Bytes of the largest file of weights, where nothing else is asked for."""


def convert(folder: Path, dtype: str, heartbeat: Callable[[], None], shard_size: int = SHARD_SIZE) -> bool:
    """Let the model that was saved in ``folder`` have ``dtype``, as torch calls it, in files of at most ``shard_size`` bytes; whether
    anything had to be changed.

    Tensor by tensor, into files that then take the place of the others: the weights are never in memory together.
    """
    import torch

    made = weight_files.tensors_of(folder, {}, str(folder))
    planned = [
        safetensors_io.Planned(
            tensor.name, tensor.shape, dtype if getattr(torch, tensor.dtype).is_floating_point else tensor.dtype
        )
        for tensor in made.values()
    ]
    files: dict[Path, list[int]] = {}
    for tensor in made.values():
        files.setdefault(tensor.file, []).append(tensor.size)
    too_large = any(len(sizes) > 1 and sum(sizes) > shard_size for sizes in files.values())
    if not too_large and all(plan.dtype == made[plan.name].dtype for plan in planned):
        return False

    def read(name: str) -> torch.Tensor:
        heartbeat()
        return made[name].read()

    beside = folder / "converted"
    beside.mkdir()
    safetensors_io.write(beside, planned, shard_size, read, lambda number, total: heartbeat())
    for file in (*files, folder / safetensors_io.INDEX):
        file.unlink(missing_ok=True)
    for file in beside.iterdir():
        file.rename(folder / file.name)
    beside.rmdir()
    config = folder / "config.json"
    described = json.loads(config.read_text(encoding="utf-8"))
    described.pop("torch_dtype", None)
    config.write_text(json.dumps({**described, "dtype": dtype}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return True
