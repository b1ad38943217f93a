"""What is put in another's place."""

from __future__ import annotations

from pathlib import Path

import pytest

from workloads.system import atomic


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
