"""Several processes that train one model: started, listened to, and ended together, in the process that launched them.

torch's elastic launcher (`elastic.py`) starts and watches them, and ends all when one fails. The rest is here: a request to stop gives all of
them the whole grace period, and what the first one reports reaches the user, the operator and the watchdog through this process, which goes on
serving `/progress`. The other side of the pipes is `worker.py`; which ending is the run's, `exit_reports.py`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alpaca_operator.api import contract
from alpaca_operator.api.contract import ExitCode
from workloads.errors import SpecError
from workloads.runtime import gpus
from workloads.runtime.exit_reports import ExitReport, verdict
from workloads.runtime.nodes import NodeGroup, interface_to
from workloads.runtime.progress import ProgressTracker
from workloads.runtime.worker import Worker, start
from workloads.system import cgroup
from workloads.system.environment import Environment
from workloads.system.signals import Stop


def run_workers(
    count: int,
    work: Callable[[Worker], contract.Termination],
    environment: Environment,
    tracker: ProgressTracker,
    stop: Stop,
    group: NodeGroup | None = None,
) -> contract.Termination:
    """Run ``work`` (which can be pickled) in ``count`` processes here, and as many on each other node of the ``group``; returns how the first
    of them ended, or the one that failed first.

    Raises SpecError where there are GPUs, and too few of them, and Interrupted for a stop before the processes were started.
    """
    with stop.interruptible():
        visible = gpus.visible()
        if 0 < visible < count:
            raise SpecError(
                f"{count} processes are to train, each on a GPU of its own, and there are {visible}: set parallelism.processesPerNode to {visible}, "
                "or ask for more in pod.resources.limits"
            )
        from workloads.runtime import elastic
    killed_before = cgroup.kills()
    first = count * group.index if group else 0
    meeting = elastic.Meeting(group.store, group.address, group.port, group.index, group.count) if group else None
    with TemporaryDirectory(prefix="alpaca-ranks-") as name, _network(group.address if group else None):
        folder = Path(name)
        ours, theirs = zip(*(multiprocessing.Pipe() for _ in range(count)), strict=True)
        with Listener(ours, tracker, stop, group) as listener:
            went_well = elastic.run(
                count, start, [work, list(theirs), folder], environment.start_method, folder / "elastic", meeting
            )
        ended = time.monotonic()
        reports = [ExitReport.read(folder, rank) for rank in range(count)]
    if went_well and reports[0] is not None:
        return group.conclude(reports[0].ending, is_collateral=False) if group else reports[0].ending
    signals = {rank: -code for rank, code in listener.exit_codes().items() if code is not None and code < 0}
    short = cgroup.kills() > killed_before
    rank, ending = verdict(reports, signals, ended=ended, stopped=stop.requested, short_of_memory=short)
    blamed = None if ending.exit_code == ExitCode.INTERRUPTED else first + rank  # all of them stopped
    ending = _with_progress(ending, tracker.current).model_copy(update={"rank": blamed})
    if group is None:
        return ending
    report = reports[rank]
    return group.conclude(ending, is_collateral=report is not None and report.is_collateral)


def _with_progress(ending: contract.Termination, progress: contract.Progress) -> contract.Termination:
    """``ending`` with what the first process last reported, where its own knows less."""
    known = {
        "step": progress.step,
        "total_steps": progress.total_steps,
        "loss": progress.loss,
        "checkpoint": progress.checkpoint,
        "resolved_policy": progress.resolved_policy,
    }
    return ending.model_copy(update={name: value for name, value in known.items() if getattr(ending, name) is None})


class Listener:
    """A thread that passes on what the processes report, and tells them of a stop and of a lost sibling."""

    def __init__(
        self, pipes: Sequence[Connection], tracker: ProgressTracker, stop: Stop, group: NodeGroup | None = None
    ) -> None:
        self._pipes = list(pipes)
        self._group = group
        self._tracker = tracker
        self._stop = stop
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="listener", daemon=True)
        self._pids: dict[int, int] = {}
        self._children: dict[int, BaseProcess] = {}
        self._signalled: set[int] = set()
        self._loss_announced = False

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def exit_codes(self) -> dict[int, int | None]:
        """Of each rank that has begun; negative for the signal that killed it."""
        return {rank: child.exitcode for rank, child in self._children.items()}

    def _listen(self) -> None:
        open_pipes = {pipe: rank for rank, pipe in enumerate(self._pipes)}
        while True:
            ready = wait(list(open_pipes), timeout=0.1) if open_pipes else []
            if not ready and self._over.wait(0 if open_pipes else 0.1):
                return
            for pipe in ready:
                assert isinstance(pipe, Connection)
                try:
                    self._receive(open_pipes[pipe], *pipe.recv())
                except (EOFError, OSError):
                    del open_pipes[pipe]
            self._forward_stop()
            self._announce_loss()

    def _receive(self, rank: int, kind: str, *fields: Any) -> None:
        if kind == "arrived":
            self._pids[rank] = fields[0]
            by_pid = {child.pid: child for child in multiprocessing.active_children()}
            self._children |= {rank: by_pid[pid] for rank, pid in self._pids.items() if pid in by_pid}
        elif kind == "progress":
            progress, logged = fields
            self._tracker.update(log=logged, **progress)
        else:
            self._tracker.log(fields[0])

    def _forward_stop(self) -> None:
        """SIGTERM, once to each: a terminal's Ctrl-C reaches them too, and is left to us."""
        if self._stop.requested:
            for rank in self._pids.keys() - self._signalled:
                self._signalled.add(rank)
                self._signal(self._pids[rank])

    def _signal(self, pid: int) -> None:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return  # it has ended meanwhile

    def _announce_loss(self) -> None:
        """Once one is gone the others can only fail, or wait for it forever."""
        if self._loss_announced:
            return
        elsewhere = self._group is not None and self._group.lost is not None
        if not elsewhere and not wait([child.sentinel for child in self._children.values()], timeout=0):
            return
        self._loss_announced = True
        for pipe in self._pipes:
            try:
                pipe.send("one of us is gone")
            except OSError:
                continue  # that is the one


@contextmanager
def _network(first_node: str | None) -> Iterator[None]:
    """Processes of one machine speak over its loopback interface, whatever a pod's name resolves to; those of several over the one that
    reaches the first of them."""
    name = interface_to(first_node) if first_node else "lo"
    wanted = {variable: name for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if name}
    ours = {variable: name for variable, name in wanted.items() if variable not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
