"""What several runs make at once is made whole by one of them, with or without locks; a full volume is told as such."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest

from workloads.errors import DataError
from workloads.system import atomic


def no_locks(handle: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_two_runs_on_a_volume_without_locks_write_apart_and_the_first_rename_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks)
    folder = tmp_path / "tokens" / "0f"
    with atomic.file_lock(folder, lambda: None), atomic.made_once(folder) as first:
        (first / "tokens.bin").write_text("first, half")
        with atomic.file_lock(folder, lambda: None), atomic.made_once(folder) as second:
            (second / "tokens.bin").write_text("second, whole")
        assert (folder / "tokens.bin").read_text() == "second, whole"
        (first / "tokens.bin").write_text("first, whole")
    assert (folder / "tokens.bin").read_text() == "second, whole"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["0f", "0f.lock"]


def test_what_ends_badly_leaves_nothing(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with atomic.made_once(tmp_path / "a") as folder:
            (folder / "half").write_text("half")
            raise DataError("a row")

    with pytest.raises(DataError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_goes_after_a_day_and_what_another_is_writing_stays(tmp_path: Path) -> None:
    for name, age in (("killed", 25 * 3600), ("writing", 60)):
        partial = tmp_path / f".a.{name}.partial"
        partial.mkdir()
        (partial / "tokens.bin").write_text("half")
        for path in (partial / "tokens.bin", partial):
            os.utime(path, (time.time() - age,) * 2)
    with atomic.made_once(tmp_path / "a") as folder:
        (folder / "whole").write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.writing.partial", "a"]


def full(handle: int) -> None:
    raise OSError(errno.EDQUOT, "Disk quota exceeded")


@pytest.mark.parametrize("error", [
    pytest.param(RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), id="torch.save's"),
    pytest.param(OSError("25000000 requested and 0 written"), id="numpy's"),
])  # fmt: skip
def test_a_library_that_names_no_reason_on_a_full_volume_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="quota exceeded") as told, atomic.failures_named(tmp_path):
        raise error
    assert (told.value.errno, told.value.filename, told.value.__cause__) == (errno.EDQUOT, str(tmp_path), error)
    assert list(tmp_path.iterdir()) == []


def test_with_room_left_an_error_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), atomic.failures_named(tmp_path):
        raise RuntimeError("shapes differ")
    with pytest.raises(OSError, match="stale") as told, atomic.failures_named(tmp_path):
        raise OSError(errno.ESTALE, "stale file handle")
    assert told.value.filename == str(tmp_path)


def test_a_large_file_is_flushed_in_pieces_with_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "PIECE", 1 << 16)
    (tmp_path / "large").write_bytes(bytes(5 * (1 << 16) + 1))
    beats: list[int] = []
    atomic.sync_tree(tmp_path, lambda: beats.append(1))
    assert len(beats) == 6


def test_a_folder_that_can_be_put_aside_is_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    atomic.put_aside_and_back(folder, "run")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["out", "out/thesis.txt"]


def test_what_is_not_there_is_in_nobody_s_way(tmp_path: Path) -> None:
    atomic.put_aside_and_back(tmp_path / "out", "run")
    assert list(tmp_path.iterdir()) == []


def test_a_mount_point_cannot_be_put_aside() -> None:
    with pytest.raises(OSError, match="/dev/shm"):
        atomic.put_aside_and_back(Path("/dev/shm"), "run")
