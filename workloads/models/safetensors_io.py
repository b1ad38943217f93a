"""Weights on disk, one tensor at a time: safetensors files read by name, and written in shards without holding one in memory.

safetensors' own reader maps whole files, whose pages count as memory once they were read, and its writer wants all of a file at
once. The format is simple enough to do without: eight bytes of length, a JSON header, the tensors' bytes one after another
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.errors import InputError

if TYPE_CHECKING:
    import torch

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000
"""Bytes that safetensors itself accepts."""
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
"""Names in a safetensors header, and torch's."""
UNITS = {"MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies."""

    name: str
    file: Path
    start: int
    """Offset of its first byte in the file."""
    size: int
    """Bytes."""
    shape: tuple[int, ...]
    dtype: str
    """As torch calls it."""

    def read(self) -> torch.Tensor:
        """Its values, in memory of their own."""
        import torch

        dtype = getattr(torch, self.dtype)
        if not self.size:
            return torch.empty(self.shape, dtype=dtype)
        held = bytearray(self.size)
        with self.file.open("rb") as file:
            file.seek(self.start)
            if file.readinto(held) != self.size:
                raise InputError(f"{self.file} ends within {self.name}: copy it again")
        return torch.frombuffer(held, dtype=dtype).reshape(self.shape)


def tensors(file: Path, label: str) -> dict[str, Tensor]:
    """The tensors of a file, in its order. Raises InputError, which begins with ``label``, for one that is not whole."""
    try:
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > LONGEST_HEADER:
                raise ValueError(f"its header claims {length} bytes")
            header = json.loads(handle.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if file.stat().st_size < 8 + length + end:
            raise ValueError(f"it has {file.stat().st_size} bytes and its header asks for {8 + length + end}")
        found = [
            Tensor(
                name=name,
                file=file,
                start=8 + length + entry["data_offsets"][0],
                size=entry["data_offsets"][1] - entry["data_offsets"][0],
                shape=tuple(entry["shape"]),
                dtype=DTYPES.get(entry["dtype"], entry["dtype"]),
            )
            for name, entry in header.items()
        ]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{label}: {file.name} is damaged ({error}): copy it again") from error
    return {tensor.name: tensor for tensor in sorted(found, key=lambda tensor: tensor.start)}


@dataclass(frozen=True)
class Planned:
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """As torch calls it."""

    @property
    def width(self) -> int:
        """Bytes of a value."""
        import torch

        return int(getattr(torch, self.dtype).itemsize)

    @property
    def values(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def size(self) -> int:
        """Bytes."""
        return self.values * self.width


def byte_count(size: str) -> int:
    """``5GB`` → 5,000,000,000, as transformers counts."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Z]+)", size).groups()  # type: ignore[union-attr]
    return int(float(number) * UNITS[unit])


def shards(planned: Sequence[Planned], limit: int) -> list[list[Planned]]:
    """Tensors in their order, file by file; a file has at most ``limit`` bytes, or one tensor that is larger."""
    files: list[list[Planned]] = []
    room = 0
    for tensor in planned:
        if not files or tensor.size > room:
            files.append([])
            room = limit
        files[-1].append(tensor)
        room -= tensor.size
    return files


def write(
    folder: Path,
    planned: Sequence[Planned],
    limit: int,
    make: Callable[[str], torch.Tensor],
    written: Callable[[int, int], None],
) -> None:
    """Write ``planned`` into ``folder`` as transformers names its shards, each tensor as ``make`` gives it by name.

    ``written`` is called after each file with the number of files written and their total.
    """
    files = shards(planned, limit)
    names = (
        [WHOLE]
        if len(files) == 1
        else [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    )
    for number, (name, content) in enumerate(zip(names, files, strict=True), 1):
        _write_file(folder / name, content, make)
        written(number, len(files))
    if len(files) > 1:
        index = {
            "metadata": {
                "total_parameters": sum(tensor.values for tensor in planned),
                "total_size": sum(tensor.size for tensor in planned),
            },
            "weight_map": {
                tensor.name: name
                for name, content in zip(names, files, strict=True)
                for tensor in sorted(content, key=lambda tensor: tensor.name)
            },
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_file(path: Path, content: Sequence[Planned], make: Callable[[str], torch.Tensor]) -> None:
    import torch

    types = {ours: theirs for theirs, ours in DTYPES.items()}
    ordered = sorted(content, key=lambda tensor: -tensor.width)  # each value at a multiple of its width
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        header[tensor.name] = {
            "dtype": types[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.size],
        }
        end += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in ordered:
            made = make(tensor.name)
            assert tuple(made.shape) == tensor.shape, f"{tensor.name} is {tuple(made.shape)}, planned {tensor.shape}"
            values = made.to(getattr(torch, tensor.dtype)).contiguous().reshape(-1)
            del made
            if tensor.size:
                file.write(values.view(torch.uint8).numpy().data)
