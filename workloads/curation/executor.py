"""datatrove's executor with processes of ours: a share that was made is proved before it is trusted, and a process that is lost is told."""

from __future__ import annotations

import copy
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datatrove.executor.local import LocalPipelineExecutor
from loguru import logger

from workloads.storage.hashing import HashCache
from workloads.system import atomic

logger.disable("datatrove")  # it tells its own progress, and errors twice

Tell = Callable[[int], None]
"""Hears of so many documents more."""
DOCUMENTS_AT_ONCE = 200
"""Documents between two words about them."""


class Stage(LocalPipelineExecutor):
    """A pipeline over ``tasks`` shares of the work, whose files lie in ``folder``.

    datatrove marks a share as completed with an empty file. Beside it lies a receipt with the digest of each file that was made: after a
    power failure, or somebody's deletion, the mark alone says nothing.
    """

    def __init__(self, name: str, folder: Path, pipeline: Sequence[Any], tasks: int, products: Sequence[str]) -> None:
        """``products`` are patterns of what a share makes below ``folder``, with ``{rank}``."""
        super().__init__(pipeline=list(pipeline), tasks=tasks, workers=1, logging_dir=str(folder))
        self.name = name
        self.folder = folder
        self.products = tuple(products)

    def missing(self, log: Callable[[str], None], ranks: Iterable[int] | None = None) -> list[int]:
        """The shares, of all or of ``ranks``, that have to be made. What is marked as made and is not whole is made again, and said."""
        todo = []
        for rank in range(self.tasks) if ranks is None else ranks:
            if (problem := self._problem(rank)) is None:
                continue
            if self._mark(rank).is_file():
                log(f"share {rank} of {self.name} is made again: {problem}")
                self._mark(rank).unlink(missing_ok=True)
            todo.append(rank)
        return todo

    def make(self, rank: int, tell: Tell) -> None:
        """Make one share, unless another run has just done so. What a run that was killed had half written goes."""
        with atomic.file_lock(self.folder / "locks" / f"{rank:05d}", lambda: tell(0)):
            if self._problem(rank) is None:
                return
            for leftover in [*self._made(rank), *self._half_made(rank)]:
                leftover.unlink(missing_ok=True)
            stage = copy.copy(self)
            first, *rest = copy.deepcopy(self.pipeline)
            stage.pipeline = [first, _Counted(tell), *rest]
            stage._run(rank)

    def _run(self, rank: int) -> None:
        """As datatrove does it, but for its loggers: it adds three for each share, which takes longer than all the work on a small one."""
        data: Any = None
        for step in self.pipeline:
            data = step(data, rank, self.world_size)
        deque(data or (), maxlen=0)
        self.mark_rank_as_completed(rank)

    def is_marked(self, rank: int) -> bool:
        """Whether a share is said to be made."""
        return self._mark(rank).is_file()

    def unseen(self, rank: int) -> bool:
        """Whether a share is not to be found here, or not all of it. What is in its files is not looked at."""
        try:
            files = json.loads(self._receipt(rank).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return True
        return not self._mark(rank).is_file() or not {self.folder / name for name in files} <= set(self._made(rank))

    def mark_rank_as_completed(self, rank: int) -> None:
        files = {str(path.relative_to(self.folder)): _digest(path) for path in self._made(rank)}
        for name in files:
            atomic.sync(self.folder / name)
        self._receipt(rank).parent.mkdir(exist_ok=True)
        atomic.write_text(self._receipt(rank), json.dumps(files))
        super().mark_rank_as_completed(rank)

    def _problem(self, rank: int) -> str | None:
        """Why a share is not made."""
        if not self._mark(rank).is_file():
            return "it is not completed"
        try:
            files = json.loads(self._receipt(rank).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return "its receipt cannot be read"
        for name, digest in files.items():
            path = self.folder / name
            if not path.is_file():
                return f"{name} is missing"
            if _digest(path) != digest:
                return f"{name} has changed"
        return None

    def _made(self, rank: int) -> list[Path]:
        patterns = [pattern.format(rank=rank) for pattern in self.products]
        return sorted(path for pattern in patterns for path in self.folder.glob(pattern) if path.is_file())

    def _half_made(self, rank: int) -> list[Path]:
        patterns = [Path(pattern.format(rank=rank)) for pattern in self.products]
        hidden = [str(pattern.with_name(f".{pattern.name.rstrip('*')}*.partial")) for pattern in patterns]
        return [path for pattern in hidden for path in self.folder.glob(pattern)]

    def _mark(self, rank: int) -> Path:
        return self.folder / "completions" / f"{rank:05d}"

    def _receipt(self, rank: int) -> Path:
        return self.folder / "receipts" / f"{rank:05d}.json"


class _Counted:
    """A step that hands documents on, and tells how many there were."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def __call__(self, data: Iterable[Any] | None, rank: int, world_size: int) -> Iterator[Any] | None:
        return None if data is None else self._counted(data)

    def _counted(self, data: Iterable[Any]) -> Iterator[Any]:
        count = 0
        for document in data:
            count += 1
            if count == DOCUMENTS_AT_ONCE:
                self._tell(count)
                count = 0
            yield document
        self._tell(count)


def _digest(path: Path) -> str:
    return HashCache(Path(os.devnull)).compute(path)
