"""How each of several processes ended, and which of them the run failed by: the cause is told apart from what fails in its wake."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alpaca_operator.api import contract
from alpaca_operator.api.contract import ExitCode
from workloads.errors import Interrupted, OutOfMemory, WorkloadError
from workloads.runtime import exits

LAUNCHER_KILLS_AFTER = 25.0
"""The launcher kills what has not ended half a minute after a failure. Who dies earlier was killed by somebody else."""

LOST_SIBLING_SIGNS = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "failed to recv",
    "remote process exited",
    "socket timeout",
)
"""What gloo, NCCL and the store say, in lower case, when the process at the other end is gone."""


class SiblingLost(WorkloadError):
    """Another process of the run ended, so this one cannot go on. Never the cause."""


def recognize_lost_sibling(error: BaseException) -> BaseException:
    """``error``, or SiblingLost in its place where it only says that another process is gone."""
    text = str(error).lower()
    if isinstance(error, RuntimeError | ConnectionError) and any(sign in text for sign in LOST_SIBLING_SIGNS):
        return SiblingLost(f"another process ended ({str(error).splitlines()[0][:200]})")
    return error


@dataclass(frozen=True)
class ExitReport:
    """How one process ended, left in a file: its pipe may be broken, or another thread writing to it."""

    ending: contract.Termination
    time: float
    """``time.monotonic()``, which all processes of a machine share."""
    is_collateral: bool

    @classmethod
    def read(cls, folder: Path, rank: int) -> ExitReport | None:
        try:
            report = json.loads((folder / f"{rank}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return cls(contract.Termination.model_validate(report["ending"]), report["time"], report["collateral"])

    def write(self, folder: Path, rank: int) -> None:
        report = {
            "ending": json.loads(self.ending.to_json()),
            "time": self.time,
            "collateral": self.is_collateral,
        }
        partial = folder / f".{rank}.json"
        partial.write_text(json.dumps(report), encoding="utf-8")
        partial.rename(folder / f"{rank}.json")


def verdict(
    reports: Sequence[ExitReport | None],
    signals: Mapping[int, int],
    *,
    ended: float,
    stopped: bool,
    short_of_memory: bool,
) -> tuple[int, contract.Termination]:
    """Rank and termination of the process that the run failed by.

    ``signals``: the ranks that a signal killed. ``ended``: when all were gone. The first that knows what is wrong answers for the run;
    then one that was killed; then the first whose error nobody foresaw; last those that ended because another had.
    """
    written = [(report.time, rank, report) for rank, report in enumerate(reports) if report is not None]
    failed = [(at, rank, report) for at, rank, report in written if report.ending.exit_code != ExitCode.OK]
    silent = [rank for rank, report in enumerate(reports) if report is None]

    def order(entry: tuple[float, int, ExitReport]) -> tuple[int, float]:
        at, _, report = entry
        interrupted = report.ending.exit_code == ExitCode.INTERRUPTED
        if report.is_collateral:
            return 3, at
        if interrupted and not stopped:
            return 2, at  # told to stop by the launcher, after another had failed
        return (1 if report.ending.exit_code == ExitCode.INTERNAL else 0), at

    first = min(failed, key=order, default=None)
    if first is not None:
        knows, unforeseen = order(first)[0] == 0, order(first)[0] == 1
        others_hung = ended - min(at for at, _, _ in failed) > LAUNCHER_KILLS_AFTER
        if knows or not silent or others_hung or (unforeseen and not signals):
            return first[1], first[2].ending
    killed = next((rank for rank in silent if signals.get(rank) == signal.SIGKILL), silent[0])
    return killed, _killed(killed, signals.get(killed), stopped, short_of_memory)


def _killed(rank: int, number: int | None, stopped: bool, short_of_memory: bool) -> contract.Termination:
    """The termination of a process that left no report."""
    error: WorkloadError
    how = f"by {signal.Signals(number).name}" if number else "without a word"
    if stopped and number == signal.SIGTERM:
        error = Interrupted("stopped before the first step: run again to start")
    elif short_of_memory:
        error = OutOfMemory(f"the kernel killed process {rank} for want of memory: {exits.MEMORY_REMEDY}")
    else:
        error = WorkloadError(
            f"process {rank} was ended {how}, from outside: run again to go on from the newest checkpoint; should it happen again, see whether "
            "the machine is short of memory"
        )
    return exits.termination(error.reason, int(error.exit_code), str(error), contract.Progress())
