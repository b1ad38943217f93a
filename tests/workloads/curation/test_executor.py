"""Shares that are made once, proved before they are trusted, and made by processes that may be lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from tests.workloads.process import ROOT
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

    def hear(rank: int, documents: int) -> None:
        told[0] += documents

    with Crew(processes) as crew:
        crew.make(made, made.missing(said.append), hear, lambda: None)
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


def test_what_a_killed_run_had_half_written_goes(tmp_path: Path) -> None:
    made = Stage("counting", tmp_path, [Number(tmp_path)], tasks=4, products=["{rank:05d}.txt", "train/{rank:05d}-*"])
    (tmp_path / "train").mkdir()
    for name in (".00000-00000.jsonl.zst.21af7d82.partial", ".00001-00000.jsonl.zst.9be2c1a0.partial"):
        (tmp_path / "train" / name).write_bytes(b"half")
    made.make(0, lambda _: None)
    left = [path.name for path in (tmp_path / "train").iterdir()]
    assert left == [".00001-00000.jsonl.zst.9be2c1a0.partial"], "another machine may be writing that at this moment"


def test_members_end_with_the_process_that_was_killed(tmp_path: Path) -> None:
    """The first process dies as a kernel kills it; what its members had begun is not written after that."""
    script = (
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from tests.workloads.curation.test_executor import Crew, Waiting, Stage\n"
        "if __name__ == '__main__':\n"
        "    folder = Path(sys.argv[1])\n"
        "    with Crew(2) as crew:\n"
        "        stage = Stage('waiting', folder, [Waiting(folder)], tasks=2, products=['*.txt'])\n"
        "        crew.make(stage, [0, 1], lambda *_: None, lambda: None)\n"
    )
    (tmp_path / "main.py").write_text(script)
    environ = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "operator")))}
    process = subprocess.Popen([sys.executable, str(tmp_path / "main.py"), str(tmp_path)], env=environ)
    members = [until(tmp_path / f"pid-{rank}") for rank in (0, 1)]
    process.kill()
    process.wait()
    for member in members:
        until_gone(member)
    assert not list(tmp_path.glob("*.txt"))


class Waiting(PipelineStep):
    """Tells its process, waits for a word that never comes, and would write then."""

    type, name = "Test", "waiting"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        (self.folder / f"pid-{rank}.part").write_text(str(os.getpid()))
        (self.folder / f"pid-{rank}.part").rename(self.folder / f"pid-{rank}")
        while not (self.folder / "word").exists():
            time.sleep(0.05)
        yield Document(text="山", id=str(rank))
        (self.folder / f"{rank}.txt").write_text("late")


def until(path: Path) -> int:
    """The number in a file, as soon as it is there."""
    limit = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < limit, path
        time.sleep(0.05)
    return int(path.read_text())


def until_gone(pid: int) -> None:
    limit = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < limit, f"process {pid} goes on"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """A zombie, which nobody has asked for its end yet, is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_share_raises_is_raised_here(tmp_path: Path, processes: int) -> None:
    with pytest.raises(DataError, match=r"a\.txt, line 3: no text"):
        make(stage(tmp_path, "bad"), processes)
    make(stage(tmp_path), 1)
    assert set(made_shares(tmp_path)) == {"0", "1", "2", "3"}


def test_a_process_that_is_killed_is_told_as_too_little_memory(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"lower parallelism\.processesPerNode"):
        make(stage(tmp_path, "killed"), 2)
