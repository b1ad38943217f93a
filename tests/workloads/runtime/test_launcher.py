"""Real processes: what reaches the one that launched them, and how a failure ends all."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from typing import Any

import pytest

from alpaca_operator.api import contract
from alpaca_operator.api.status import Reason
from workloads.errors import DataError, WorkloadError
from workloads.runtime import exits, launcher, worker
from workloads.runtime.distributed import DistributedContext
from workloads.runtime.progress import ProgressTracker
from workloads.system.environment import Environment
from workloads.system.signals import Stop

BAD_ROW = DataError("rows.csv, row 7: no answer")


class Heard:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def progress(self, progress: contract.Progress, *, logged: bool) -> None:
        self.told.append(progress.step)

    def log(self, message: str) -> None:
        self.told.append(message)

    def close(self) -> None:
        pass


def work(what: str, member: worker.Worker) -> contract.Termination:
    """Tells a step, then does ``what``."""
    tracker = ProgressTracker(member.display)
    tracker.update(step=7, total_steps=9, loss=0.5)
    tracker.log(f"here is {member.rank} of {member.count} on {os.environ['MASTER_ADDR']}")
    DistributedContext(member.rank, member.count).barrier()  # what the first tells is under way before the other fails
    error: WorkloadError | None = None
    if what == "rank 1 finds a bad row" and member.rank == 1:
        error = BAD_ROW
    elif what == "rank 1 is killed" and member.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    elif what != "all end well":
        time.sleep(600)  # as in a collective operation that nobody answers any more
    reason, code = (error.reason, int(error.exit_code)) if error else (Reason.SUCCEEDED, 0)
    ending = exits.termination(reason, code, str(error or "well"), tracker.current)
    member.leave(ending)
    return ending


def launched(what: str, start_method: str) -> tuple[contract.Termination, list[Any]]:
    heard = Heard()
    environment = Environment.read({"ALPACA_START_METHOD": start_method})
    ending = launcher.run_workers(2, partial(work, what), environment, ProgressTracker(heard), Stop(60))
    return ending, heard.told


@pytest.mark.parametrize("start_method", ["spawn", "fork"])
def test_what_the_first_tells_is_passed_on_and_its_ending_is_the_run_s(start_method: str) -> None:
    ending, told = launched("all end well", start_method)
    assert (ending.exit_code, ending.message, ending.step, ending.rank) == (0, "well", 7, None)
    assert told == [7, "here is 0 of 2 on 127.0.0.1"]
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_a_failure_ends_all_and_names_its_process() -> None:
    ending, _ = launched("rank 1 finds a bad row", "fork")
    assert (ending.exit_code, ending.message, ending.rank) == (65, "rows.csv, row 7: no answer", 1)
    assert (ending.step, ending.total_steps, ending.loss) == (7, 9, 0.5)


def test_a_killed_process_ends_all_and_is_named() -> None:
    ending, _ = launched("rank 1 is killed", "fork")
    assert (ending.exit_code, ending.rank, ending.step) == (70, 1, 7)
    assert ending.message.startswith("process 1 was ended by SIGKILL, from outside: ")
