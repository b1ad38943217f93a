"""Shares that are made once, proved before they are trusted, and made by processes that may be lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from workloads.curation.crew import Crew
from workloads.curation.executor import Stage
from workloads.errors import DataError, OutOfMemory


class Number(PipelineStep):
    """Writes the number of its share, and makes three documents."""

    type, name = "Test", "number"

    def __init__(self, folder: Path, trouble: str = "") -> None:
        super().__init__()
        self.folder, self.trouble = folder, trouble

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        if rank == 1 and self.trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 1 and self.trouble:
            raise DataError("a.txt, line 3: no text")
        with (self.folder / "log").open("a") as log:
            log.write(f"{rank}\n")
        (self.folder / f"{rank:05d}.txt").write_text(str(rank))
        for number in range(3):
            yield Document(text="山", id=f"{rank}/{number}")


def stage(folder: Path, trouble: str = "") -> Stage:
    folder.mkdir(exist_ok=True)
    return Stage("counting", folder, [Number(folder, trouble)], tasks=4, products=["{rank:05d}.txt"])


def make(made: Stage, processes: int) -> tuple[int, list[str]]:
    """How many documents were told, and what was said."""
    told, said = [0], list[str]()

    def tell(documents: int) -> None:
        told[0] += documents

    with Crew(processes) as crew:
        crew.make(made, made.missing(said.append), tell, lambda: None)
    return told[0], said


def made_shares(folder: Path) -> list[str]:
    return sorted((folder / "log").read_text().split())


@pytest.mark.parametrize("processes", [1, 2])
def test_every_share_is_made_once(tmp_path: Path, processes: int) -> None:
    assert make(stage(tmp_path), processes) == (12, [])
    assert make(stage(tmp_path), processes) == (0, [])
    assert made_shares(tmp_path) == ["0", "1", "2", "3"]


def test_a_share_that_is_not_whole_is_made_again(tmp_path: Path) -> None:
    make(stage(tmp_path), 1)
    (tmp_path / "00000.txt").unlink()
    (tmp_path / "00001.txt").write_text("damaged")
    (tmp_path / "receipts" / "00002.json").write_text("")
    (tmp_path / "completions" / "00003").unlink()
    _, said = make(stage(tmp_path), 1)
    assert said == [
        "share 0 of counting is made again: 00000.txt is missing",
        "share 1 of counting is made again: 00001.txt has changed",
        "share 2 of counting is made again: its receipt cannot be read",
    ]
    assert made_shares(tmp_path) == ["0", "0", "1", "1", "2", "2", "3", "3"]
    assert [(tmp_path / f"0000{rank}.txt").read_text() for rank in range(4)] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_share_raises_is_raised_here(tmp_path: Path, processes: int) -> None:
    with pytest.raises(DataError, match=r"a\.txt, line 3: no text"):
        make(stage(tmp_path, "bad"), processes)
    make(stage(tmp_path), 1)
    assert set(made_shares(tmp_path)) == {"0", "1", "2", "3"}


def test_a_process_that_is_killed_is_told_as_too_little_memory(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"lower parallelism\.processesPerNode"):
        make(stage(tmp_path, "killed"), 2)
