"""Several processes: how many, how their failures are weighed, and what reaches the one that launched them."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from typing import Any

import pytest

from alpaca_operator.api import contract
from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.sft import SFTJob
from alpaca_operator.api.status import Reason
from workloads import endings, launch
from workloads.environment import Environment
from workloads.errors import DataError, Interrupted, OutOfMemory, WorkloadError
from workloads.launch import SiblingLost, Word
from workloads.progress import Board
from workloads.stop import Stop

# How many

GPUS = {"nvidia.com/gpu": 4}


@pytest.mark.parametrize(
    ("spec", "in_pod", "count"),
    [
        pytest.param({}, True, 1, id="one, where nothing is said"),
        pytest.param({"parallelism": {"processesPerNode": 3}}, True, 3, id="as many as the spec says"),
        pytest.param({"pod": {"resources": {"limits": GPUS}}}, True, 4, id="one for each GPU of the pod"),
        pytest.param({"pod": {"resources": {"limits": {"amd.com/gpu": "2"}}}}, True, 2, id="of any maker"),
        pytest.param({"pod": {"resources": {"limits": {"memory": "4Gi", "cpu": 8}}}}, True, 1, id="not for each processor"),
        pytest.param(
            {"parallelism": {"processesPerNode": 1}, "pod": {"resources": {"limits": GPUS}}}, True, 1, id="fewer than GPUs, if said"
        ),
        pytest.param(
            {"pod": {"resourceClaims": [{"name": "gpus", "resourceClaimName": "four"}]}}, True, 1, id="one with a claim, whose devices nobody counts"
        ),
        pytest.param({"pod": {"resources": {"limits": GPUS}}}, False, 1, id="one on a laptop without the pod's GPUs"),
        pytest.param({"parallelism": {"processesPerNode": 2}}, False, 2, id="two on a laptop without a GPU, if said"),
    ],
)  # fmt: skip
def test_the_number_of_processes(spec: dict[str, Any], in_pod: bool, count: int) -> None:
    required = {"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d"}]}, "output": {"uri": "o"}}
    job = SFTJob.model_validate({"metadata": {"name": "j"}, "spec": required | spec})
    assert launch.processes(job, Environment.read({"ALPACA_IN_POD": "1"} if in_pod else {})) == count


# Whose ending it is


def word(error: WorkloadError | None, at: float) -> Word:
    if error is None:
        return Word(endings.last_word(Reason.SUCCEEDED, ExitCode.OK, "well", contract.Progress()), at, False)
    ending = endings.last_word(error.reason, int(error.exit_code), str(error), contract.Progress())
    return Word(ending, at, isinstance(error, SiblingLost))


LOST = SiblingLost("another process ended")
BAD_ROW = DataError("rows.csv, row 7: no answer")
BUG = WorkloadError("KeyError: 'x' (the traceback is in the log)")
TOLD = Interrupted("stopped before the first step: run again to start")
SAVED = Interrupted("stopped after step 3 of 9, with a checkpoint: run again to go on")


@pytest.mark.parametrize(
    ("words", "signals", "ended", "told", "rank", "message"),
    [
        pytest.param([word(LOST, 1.01), word(BAD_ROW, 1.0)], {}, 1.5, {}, 1, str(BAD_ROW), id="what failed first"),
        pytest.param([word(LOST, 0.9), word(BAD_ROW, 1.0)], {}, 1.5, {}, 1, str(BAD_ROW), id="not what failed in its wake, whatever the clock says"),
        pytest.param([word(BUG, 0.9), word(BAD_ROW, 1.0)], {}, 1.5, {}, 1, str(BAD_ROW), id="what knows its cause before what does not"),
        pytest.param([word(TOLD, 1.2), word(BUG, 1.0)], {}, 1.5, {}, 1, str(BUG), id="not those that the launcher then told to stop"),
        pytest.param([word(SAVED, 3.0), word(SAVED, 2.9)], {}, 3.1, {"stopped": True}, 1, str(SAVED), id="a stop that all obeyed"),
        pytest.param([word(LOST, 3.0), word(TOLD, 2.9)], {}, 3.1, {"stopped": True}, 1, str(TOLD), id="a stop that one was too early for"),
        pytest.param([word(SAVED, 3.0), word(LOST, 2.9)], {}, 3.1, {}, 0, str(SAVED), id="a run that was overtaken"),
        pytest.param([word(BUG, 1.0), None], {1: 9}, 32.0, {}, 0, str(BUG), id="not one that hung and was killed by the launcher"),
        pytest.param(
            [word(LOST, 1.0), None], {1: 9}, 1.2, {}, 1,
            "process 1 was ended by SIGKILL, from outside: run again to go on from the newest checkpoint; should it happen again, see whether "
            "the machine is short of memory",
            id="one that was killed",
        ),
        pytest.param(
            [word(BUG, 1.0), None], {1: 9}, 1.2, {}, 1,
            "process 1 was ended by SIGKILL, from outside: run again to go on from the newest checkpoint; should it happen again, see whether "
            "the machine is short of memory",
            id="one that was killed, whatever another made of it",
        ),
        pytest.param(
            [None, word(LOST, 1.0)], {0: 9}, 1.2, {"short_of_memory": True}, 0,
            f"the kernel killed process 0 for want of memory: {endings.MEMORY_REMEDY}",
            id="one that the kernel killed for want of memory",
        ),
        pytest.param([None, None], {0: 15, 1: 15}, 1.0, {"stopped": True}, 0, str(TOLD), id="a stop before they could listen"),
        pytest.param(
            [None, word(LOST, 1.0)], {0: 11}, 1.2, {}, 0,
            "process 0 was ended by SIGSEGV, from outside: run again to go on from the newest checkpoint; should it happen again, see whether "
            "the machine is short of memory",
            id="one that crashed",
        ),
    ],
)  # fmt: skip
def test_the_cause_is_told_from_what_fails_in_its_wake(
    words: list[Word | None], signals: dict[int, int], ended: float, told: dict[str, bool], rank: int, message: str
) -> None:
    found, ending = launch.verdict(words, signals, ended=ended, **{"stopped": False, "short_of_memory": False, **told})
    assert (found, ending.message) == (rank, message)


def test_want_of_memory_has_its_exit_code() -> None:
    _, ending = launch.verdict([None], {0: 9}, ended=1.0, stopped=False, short_of_memory=True)
    assert (ending.exit_code, ending.reason) == (71, OutOfMemory.reason)


@pytest.mark.parametrize(
    ("error", "collateral"),
    [
        pytest.param(RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:1"), True, id="gloo"),
        pytest.param(ConnectionResetError(104, "Connection reset by peer"), True, id="the store"),
        pytest.param(RuntimeError("ncclRemoteError: remote process exited or there was a network error"), True, id="NCCL"),
        pytest.param(RuntimeError("shape mismatch"), False, id="another error"),
        pytest.param(DataError("row 7: Connection closed by peer"), False, id="a row that quotes one"),
    ],
)  # fmt: skip
def test_that_another_is_gone_is_known_by_what_the_libraries_say(error: BaseException, collateral: bool) -> None:
    assert isinstance(launch.named(error), SiblingLost) is collateral


# Real processes


class Heard:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def progress(self, progress: contract.Progress, *, logged: bool) -> None:
        self.told.append(progress.step)

    def say(self, message: str) -> None:
        self.told.append(message)

    def close(self) -> None:
        pass


def work(what: str, member: launch.Member) -> contract.Termination:
    """Tells a step, then does ``what``."""
    board = Board(member.display)
    board.update(step=7, total_steps=9, loss=0.5)
    board.say(f"here is {member.rank} of {member.count} on {os.environ['MASTER_ADDR']}")
    error: WorkloadError | None = None
    if what == "rank 1 finds a bad row" and member.rank == 1:
        error = BAD_ROW
    elif what == "rank 1 is killed" and member.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    elif what != "all end well":
        time.sleep(600)  # as in a collective operation that nobody answers any more
    reason, code = (error.reason, int(error.exit_code)) if error else (Reason.SUCCEEDED, 0)
    ending = endings.last_word(reason, code, str(error or "well"), board.current)
    member.leave(ending)
    return ending


def launched(what: str, start_method: str) -> tuple[contract.Termination, list[Any]]:
    heard = Heard()
    environment = Environment.read({"ALPACA_START_METHOD": start_method})
    ending = launch.together(2, partial(work, what), environment, Board(heard), Stop(60))
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
