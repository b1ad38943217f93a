"""The runs that a job has had: when each began, with how many processes, and which steps it made, also where it was killed.

Each run keeps a record in its folder beside the output, and writes it anew, in place, after every step. It is not flushed: a killed process
loses nothing of it; with a machine the last seconds may be lost, but nothing that a checkpoint holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from alpaca_operator.api import contract
from workloads.storage.checkpoints import Run, runs
from workloads.system.clock import now

NAME = "attempt-{}.json"
PADDED = 512
"""Bytes of a record, filled up with blanks: it is written over the one before, by one call, so that it is never read in halves."""


class Record(contract.Attempt):
    """What a run keeps of itself."""

    training_digest: str
    """What it trained, as in checkpoints.Run."""


class Attempts:
    """Those of a job, and among them that of this run."""

    def __init__(self, folder: Path, run: Run, processes: int, log: Callable[[str], None]) -> None:
        """``folder``: of all checkpoints of the job."""
        self._folder = folder
        self._run = run
        began = "".join(character for character in run.started_at if character.isalnum())
        self._path = folder / f"run-{run.run_id}" / NAME.format(began)
        self._own = Record(
            run_id=run.run_id,
            started_at=run.started_at,
            processes=processes,
            first_step=0,
            last_step=0,
            training_digest=run.training_digest,
        )
        self._earlier: list[Record] | None = None
        self._log = log
        self._file: int | None = None

    def begin(self) -> None:
        """The run has begun: also one that makes no step has taken its time."""
        self._open()
        self.close()

    def train_from(self, step: int) -> None:
        """It goes on from ``step``; whoever calls this is the one that notes the steps."""
        known = _read(self._folder, self._run)
        self._earlier = None if known is None else [one for one in known if one.started_at != self._own.started_at]
        self._own = self._own.model_copy(update={"first_step": step, "last_step": step})
        self._open()

    def made(self, step: int) -> None:
        """It has made ``step``."""
        if self._file is not None:
            self._own = self._own.model_copy(update={"last_step": step})
            self._write()

    def flush(self) -> None:
        """From here on the record outlives the machine."""
        if self._file is not None:
            os.fsync(self._file)

    def close(self) -> None:
        """No more steps are made."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def all(self) -> list[Record] | None:
        """Every run of the job up to this one, the first first; None where one of them left no record that can be read, or this one keeps none."""
        if self._file is None:
            return _read(self._folder, self._run)
        return None if self._earlier is None else [*self._earlier, self._own]

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._write()

    def _write(self) -> None:
        """A record that cannot be written is no reason to stop training."""
        assert self._file is not None
        try:
            os.pwrite(self._file, self._own.to_json().ljust(PADDED - 1).encode() + b"\n", 0)
        except OSError as error:
            self._log(f"{self._path}: the steps made cannot be noted ({error.strerror}), and goodput is not told")
            self.close()
            self._path.unlink(missing_ok=True)


def goodput(attempts: Sequence[contract.Attempt] | None, step: int, seconds: float | None) -> contract.Goodput | None:
    """How much of all that was done is in a model that has made ``step`` steps in ``seconds``; None where not all that was done is known,
    as of a job that was begun by a version which kept no records."""
    known = 0
    for attempt in attempts or ():
        if attempt.first_step > known:
            return None
        known = max(known, attempt.last_step)
    if not attempts or not 0 < step <= known:
        return None
    made = sum(attempt.last_step - attempt.first_step for attempt in attempts)
    began = datetime.fromisoformat(attempts[0].started_at)
    elapsed = (datetime.fromisoformat(now()) - began).total_seconds()
    time = None if seconds is None or elapsed <= 0 else round(min(1.0, seconds / elapsed), 4)
    return contract.Goodput(steps=round(step / made, 6), time=time)


def _read(folder: Path, run: Run) -> list[Record] | None:
    found = []
    for path in (path for one in runs(folder) for path in one.glob(NAME.format("*"))):
        try:
            record = Record.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            return None
        if record.training_digest == run.training_digest:
            found.append(record)
    return sorted(found, key=lambda one: one.started_at)
