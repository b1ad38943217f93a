"""Tensors are read and written one at a time, in files that safetensors and transformers read."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from workloads.errors import InputError
from workloads.models import safetensors_io


def values() -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    return {
        "half": torch.randn(7, 3).bfloat16(),
        "whole": torch.randn(5, 4),
        "one": torch.tensor(3.5),
        "none": torch.empty(0, 8),
        "numbers": torch.arange(9, dtype=torch.int64),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }


def write(folder: Path, content: dict[str, Any], limit: int) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    planned = [
        safetensors_io.Planned(name, tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in content.items()
    ]
    safetensors_io.write(folder, planned, limit, content.__getitem__, lambda *counts: told.append(counts))
    return told


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    assert write(tmp_path, values(), 10**9) == [(1, 1)]
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == values().keys()
    for name, value in values().items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


def test_what_safetensors_writes_is_read(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file(values(), tmp_path / "some.safetensors")
    found = safetensors_io.tensors(tmp_path / "some.safetensors", "model")
    assert found.keys() == values().keys()
    for name, value in values().items():
        assert found[name].shape == tuple(value.shape)
        assert torch.equal(found[name].read(), value), name


def test_files_are_cut_at_the_limit_and_indexed(tmp_path: Path) -> None:
    import torch

    content = {f"layer.{number}": torch.full((100,), float(number)) for number in range(5)}
    assert write(tmp_path, content, 900) == [(1, 3), (2, 3), (3, 3)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_parameters": 500, "total_size": 2000},
        "weight_map": {
            "layer.0": "model-00001-of-00003.safetensors",
            "layer.1": "model-00001-of-00003.safetensors",
            "layer.2": "model-00002-of-00003.safetensors",
            "layer.3": "model-00002-of-00003.safetensors",
            "layer.4": "model-00003-of-00003.safetensors",
        },
    }


def test_a_tensor_larger_than_the_limit_has_a_file_of_its_own() -> None:
    planned = [safetensors_io.Planned(name, (length,), "float32") for name, length in (("a", 1), ("b", 100), ("c", 1))]
    assert [[tensor.name for tensor in file] for file in safetensors_io.shards(planned, 40)] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize(("size", "count"), [("5GB", 5_000_000_000), ("0.5GB", 500_000_000), ("200MB", 200_000_000)])
def test_sizes_count_as_transformers_does(size: str, count: int) -> None:
    assert safetensors_io.byte_count(size) == count


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param(b"", "unpack requires a buffer of 8 bytes", id="empty"),
        pytest.param(struct.pack("<Q", 1 << 40), "its header claims 1099511627776 bytes", id="no safetensors file"),
        pytest.param(
            struct.pack("<Q", 56) + b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}} ' + b"1234",
            "it has 68 bytes and its header asks for 80",
            id="cut short",
        ),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError) as caught:
        safetensors_io.tensors(tmp_path / "model.safetensors", "spec.model base")
    assert str(caught.value) == f"spec.model base: model.safetensors is damaged ({why}): copy it again"
