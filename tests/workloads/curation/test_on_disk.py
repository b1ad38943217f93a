"""Numbers in files: sorted in runs that are merged, in memory that does not grow with them."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workloads.curation import on_disk

SIGNATURE = np.dtype([("hash", "<u8"), ("other", "<u8"), ("small", "u1"), ("document", "<u4")])


def records(count: int) -> Any:
    """Of few different hashes, so that later fields decide, with numbers in which bytes are zero."""
    rng, made = np.random.default_rng(7), np.zeros(count, dtype=SIGNATURE)
    made["hash"] = rng.choice(rng.integers(0, 1 << 63, 20, dtype=np.uint64) << np.uint64(8), count)
    made["other"] = rng.integers(0, 3, count) << 40
    made["small"] = rng.integers(0, 200, count)
    made["document"] = rng.permutation(count)
    return made


@pytest.mark.parametrize("sorted_bytes", [1, 1000, 1 << 20], ids=["a record a run", "many runs", "one run"])
def test_records_are_sorted_by_their_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sorted_bytes: int) -> None:
    monkeypatch.setattr(on_disk, "SORTED_BYTES", sorted_bytes)
    monkeypatch.setattr(on_disk, "AT_ONCE", 100)
    made = records(1234)
    path = tmp_path / "records"
    made.tofile(path)
    with path.open("r+b") as file:
        on_disk.sort(file, SIGNATURE, tmp_path)
    assert np.fromfile(path, dtype=SIGNATURE).tolist() == sorted(made.tolist())
    assert [found.name for found in tmp_path.iterdir()] == ["records"]


def test_nothing_is_sorted_to_nothing(tmp_path: Path) -> None:
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        on_disk.sort(file, SIGNATURE, tmp_path)
        assert [*on_disk.parts(file, SIGNATURE)] == []


def test_the_numbers_of_several_files_come_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disk, "SORTED_BYTES", 64)
    files = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    parts = np.array_split(np.random.default_rng(3).permutation(500).astype("<u4") * 0x10101, [200, 200])
    for file, part in zip(files, parts, strict=True):
        part.tofile(file)
    assert [*on_disk.numbers(files, "<u4", tmp_path)] == [number * 0x10101 for number in range(500)]


def test_ten_times_as_many_records_take_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disk, "SORTED_BYTES", 1 << 17)
    monkeypatch.setattr(on_disk, "AT_ONCE", 1 << 10)
    peaks = []
    for count in (20_000, 200_000):
        path = tmp_path / str(count)
        records(count).tofile(path)
        tracemalloc.start()
        with path.open("r+b") as file:
            on_disk.sort(file, SIGNATURE, tmp_path)
            peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0], peaks
    assert peaks[1] < 200_000 * SIGNATURE.itemsize / 4
