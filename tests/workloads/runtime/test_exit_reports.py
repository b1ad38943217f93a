"""Whose ending is the run's, where several processes ended."""

from __future__ import annotations

import pytest

from alpaca_operator.api import contract
from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.status import Reason
from workloads.errors import DataError, Interrupted, OutOfMemory, WorkloadError
from workloads.runtime import exit_reports, exits
from workloads.runtime.exit_reports import ExitReport, SiblingLost


def report(error: WorkloadError | None, at: float) -> ExitReport:
    if error is None:
        return ExitReport(exits.termination(Reason.SUCCEEDED, ExitCode.OK, "well", contract.Progress()), at, False)
    ending = exits.termination(error.reason, int(error.exit_code), str(error), contract.Progress())
    return ExitReport(ending, at, isinstance(error, SiblingLost))


LOST = SiblingLost("another process ended")
BAD_ROW = DataError("rows.csv, row 7: no answer")
BUG = WorkloadError("KeyError: 'x' (the traceback is in the log)")
TOLD = Interrupted("stopped before the first step: run again to start")
SAVED = Interrupted("stopped after step 3 of 9, with a checkpoint: run again to go on")


@pytest.mark.parametrize(
    ("reports", "signals", "ended", "circumstances", "rank", "message"),
    [
        pytest.param([report(LOST, 1.01), report(BAD_ROW, 1.0)], {}, 1.5, {}, 1, str(BAD_ROW), id="what failed first"),
        pytest.param([report(LOST, 0.9), report(BAD_ROW, 1.0)], {}, 1.5, {}, 1, str(BAD_ROW), id="not what failed in its wake, whatever the clock says"),
        pytest.param([report(BUG, 0.9), report(BAD_ROW, 1.0)], {}, 1.5, {}, 1, str(BAD_ROW), id="what knows its cause before what does not"),
        pytest.param([report(TOLD, 1.2), report(BUG, 1.0)], {}, 1.5, {}, 1, str(BUG), id="not those that the launcher then told to stop"),
        pytest.param([report(SAVED, 3.0), report(SAVED, 2.9)], {}, 3.1, {"stopped": True}, 1, str(SAVED), id="a stop that all obeyed"),
        pytest.param([report(LOST, 3.0), report(TOLD, 2.9)], {}, 3.1, {"stopped": True}, 1, str(TOLD), id="a stop that one was too early for"),
        pytest.param([report(SAVED, 3.0), report(LOST, 2.9)], {}, 3.1, {}, 0, str(SAVED), id="a run that was overtaken"),
        pytest.param([report(BUG, 1.0), None], {1: 9}, 32.0, {}, 0, str(BUG), id="not one that hung and was killed by the launcher"),
        pytest.param(
            [report(LOST, 1.0), None], {1: 9}, 1.2, {}, 1,
            "process 1 was ended by SIGKILL, from outside: run again to go on from the newest checkpoint; should it happen again, see whether "
            "the machine is short of memory",
            id="one that was killed",
        ),
        pytest.param(
            [report(BUG, 1.0), None], {1: 9}, 1.2, {}, 1,
            "process 1 was ended by SIGKILL, from outside: run again to go on from the newest checkpoint; should it happen again, see whether "
            "the machine is short of memory",
            id="one that was killed, whatever another made of it",
        ),
        pytest.param(
            [None, report(LOST, 1.0)], {0: 9}, 1.2, {"short_of_memory": True}, 0,
            f"the kernel killed process 0 for want of memory: {exits.MEMORY_REMEDY}",
            id="one that the kernel killed for want of memory",
        ),
        pytest.param([None, None], {0: 15, 1: 15}, 1.0, {"stopped": True}, 0, str(TOLD), id="a stop before they could listen"),
        pytest.param(
            [None, report(LOST, 1.0)], {0: 11}, 1.2, {}, 0,
            "process 0 was ended by SIGSEGV, from outside: run again to go on from the newest checkpoint; should it happen again, see whether "
            "the machine is short of memory",
            id="one that crashed",
        ),
    ],
)  # fmt: skip
def test_the_cause_is_told_from_what_fails_in_its_wake(
    reports: list[ExitReport | None],
    signals: dict[int, int],
    ended: float,
    circumstances: dict[str, bool],
    rank: int,
    message: str,
) -> None:
    found, ending = exit_reports.verdict(
        reports, signals, ended=ended, **{"stopped": False, "short_of_memory": False, **circumstances}
    )
    assert (found, ending.message) == (rank, message)


def test_want_of_memory_has_its_exit_code() -> None:
    _, ending = exit_reports.verdict([None], {0: 9}, ended=1.0, stopped=False, short_of_memory=True)
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
    assert isinstance(exit_reports.recognize_lost_sibling(error), SiblingLost) is collateral
