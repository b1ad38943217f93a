"""One of several processes that train together, as it looks from inside; `launcher.py` has the other side of its pipe."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from alpaca_operator.api import contract
from alpaca_operator.api.contract import ExitCode
from workloads.runtime import exits
from workloads.runtime.exit_reports import ExitReport, SiblingLost
from workloads.runtime.progress import Display

SIBLING_GRACE_SECONDS = 3.0
"""Seconds that a process has left once another has failed: enough to say why it cannot go on, and nothing can be saved any more."""
PR_SET_PDEATHSIG = 1


def start(work: Callable[[Worker], contract.Termination], pipes: list[Connection], folder: Path) -> None:
    """Do ``work`` in this process, which the launcher has just started."""
    # However the launching process ends, it takes this one along, as process 1 of a pod does.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the launching process passes it on
    local_rank = int(os.environ["LOCAL_RANK"])
    worker = Worker(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), local_rank, pipes[local_rank], folder)
    worker.arrive()
    ending = work(worker)
    if ending.exit_code != ExitCode.OK:
        # Not by way of destructors: those of a broken process group may wait for the others.
        os._exit(ending.exit_code)


class Worker:
    """One of the processes: its place among them, and its pipe to the one that launched it."""

    def __init__(self, rank: int, count: int, local_rank: int, pipe: Connection, folder: Path) -> None:
        self.rank = rank
        self.count = count
        self.local_rank = local_rank
        """Its number among those of this machine."""
        self.display: Display = PipeDisplay(pipe) if rank == 0 else NullDisplay()
        self._pipe = pipe
        self._folder = folder
        self._ended = False

    def arrive(self) -> None:
        """Say so, and from now on end with those that this process depends on."""
        threading.Thread(target=self._watch_siblings, name="siblings", daemon=True).start()
        self._pipe.send(("arrived", os.getpid()))

    def leave(self, ending: contract.Termination, *, is_collateral: bool = False) -> None:
        """Report how this process ended; the launching process weighs it against the others."""
        self._ended = True
        ExitReport(ending, time.monotonic(), is_collateral).write(self._folder, self.local_rank)

    def _watch_siblings(self) -> None:
        try:
            self._pipe.recv()
        except (EOFError, OSError):
            os._exit(ExitCode.INTERNAL)  # the launching process is gone
        time.sleep(SIBLING_GRACE_SECONDS)
        if not self._ended:
            lost = SiblingLost("another process ended")
            ending = exits.termination(lost.reason, int(lost.exit_code), str(lost), contract.Progress())
            self.leave(ending, is_collateral=True)
            os._exit(ExitCode.INTERNAL)


class PipeDisplay:
    """Shows nothing itself: everything goes to the display of the launching process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def progress(self, progress: contract.Progress, *, logged: bool) -> None:
        self._pipe.send(("progress", progress.model_dump(), logged))

    def log(self, message: str) -> None:
        self._pipe.send(("log", message))

    def close(self) -> None:
        """The display is the launching process's."""


class NullDisplay:
    """All but the first process: they would say the same."""

    def progress(self, progress: contract.Progress, *, logged: bool) -> None:
        pass

    def log(self, message: str) -> None:
        pass

    def close(self) -> None:
        pass
