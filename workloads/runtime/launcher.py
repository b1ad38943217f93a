"""Several processes that train one model: how many, how they are started, and which of their endings is the run's.

torch's elastic launcher (`elastic.py`) starts and watches them, and ends all when one fails. The rest is here: the cause is told from
what fails in its wake, a request to stop gives all of them the whole grace period, and what the first one tells reaches the user, the
operator and the watchdog through this process, which goes on serving `/progress`.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alpaca_operator.api import Resource, contract
from alpaca_operator.api.contract import ExitCode
from workloads.errors import Interrupted, OutOfMemory, SpecError, WorkloadError
from workloads.runtime import exits
from workloads.runtime.progress import Display, ProgressTracker
from workloads.system import cgroup
from workloads.system.environment import Environment
from workloads.system.signals import Stop

AMD = "amd.com/gpu"
GPUS = ("nvidia.com/gpu", AMD)
"""Resources of a pod that are one GPU each."""
SIBLING_GRACE_SECONDS = 3.0
"""Seconds that a process has left once another has failed: enough to say why it cannot go on, and nothing can be saved any more."""
LAUNCHER_KILLS_AFTER = 25.0
"""The launcher kills what has not ended half a minute after a failure. Who dies earlier was killed by somebody else."""
PR_SET_PDEATHSIG = 1
SIGNS = (
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


class GpuMissing(WorkloadError):
    """The pod sees fewer GPUs than its limit says. The next one may find another node, so the run is tried again."""


def processes(job: Resource, environment: Environment) -> int:
    """How many train: as many as the spec says, or one for each GPU that the pod asks for, or, outside a pod, for each of those that this
    machine has."""
    parallelism = getattr(job.spec, "parallelism", None)
    if parallelism is None:
        return 1
    if parallelism.processes_per_node is not None:
        return int(parallelism.processes_per_node)
    asked = sum(_asked(job).values())
    return max(1, asked if asked < 2 or environment.in_pod else min(asked, _gpus()))


def must_have_gpus(job: Resource, environment: Environment, count: int) -> None:
    """Look, in a pod that asks for GPUs, whether they are there for ``count`` processes: else all would be done on the CPU, and for days.

    Raises SpecError for an image that can use none, and GpuMissing.
    """
    asked = _asked(job)
    if not environment.in_pod or not asked or environment.cpu_for_gpu:
        return
    import torch

    seen, wanted = _gpus(), min(sum(asked.values()), count)
    if seen >= wanted:
        return
    says = f"spec.pod.resources.limits asks for {' and '.join(f'{number} {name}' for name, number in asked.items())}, and torch"
    built_for, maker = (torch.version.hip, "ROCm") if AMD in asked else (torch.version.cuda, "CUDA")
    if built_for is None:
        raise SpecError(
            f"{says} {torch.__version__} in the image is not built for {maker}: name another one in pod.image, or remove the limit"
        )
    fewer = f", or set parallelism.processesPerNode to {seen}" if seen else ""
    raise GpuMissing(
        f"{says} sees {seen} in this pod: see whether the node's driver works and is new enough for the image's {maker} {built_for}, and whether "
        f"the device plugin gives containers their GPUs{fewer}; the next pod may find another node"
    )


def _asked(job: Resource) -> dict[str, int]:
    """GPUs that the pod asks for, by the name of the resource."""
    limits = job.spec.pod.resources.limits
    return {name: int(limits[name]) for name in GPUS if name in limits and int(limits[name]) > 0}


def run_workers(
    count: int,
    work: Callable[[Worker], contract.Termination],
    environment: Environment,
    tracker: ProgressTracker,
    stop: Stop,
) -> contract.Termination:
    """Run ``work`` (which can be pickled) in ``count`` processes; returns how the first of them ended, or the one that failed first.

    Raises SpecError where there are GPUs, and too few of them, and Interrupted for a stop before the processes were started.
    """
    with stop.interruptible():
        gpus = _gpus()
        if 0 < gpus < count:
            raise SpecError(
                f"{count} processes are to train, each on a GPU of its own, and there are {gpus}: set parallelism.processesPerNode to {gpus}, "
                "or ask for more in pod.resources.limits"
            )
        from workloads.runtime import elastic
    killed_before = cgroup.kills()
    with TemporaryDirectory(prefix="alpaca-ranks-") as name, _network():
        folder = Path(name)
        ours, theirs = zip(*(multiprocessing.Pipe() for _ in range(count)), strict=True)
        with Listener(ours, tracker, stop) as listener:
            went_well = elastic.run(
                count, _start, [work, list(theirs), folder], environment.start_method, folder / "elastic"
            )
        ended = time.monotonic()
        words = [ExitReport.read(folder, rank) for rank in range(count)]
    if went_well and words[0] is not None:
        return words[0].ending
    signals = {rank: -code for rank, code in listener.exit_codes().items() if code is not None and code < 0}
    short = cgroup.kills() > killed_before
    rank, ending = verdict(words, signals, ended=ended, stopped=stop.requested, short_of_memory=short)
    blamed = None if ending.exit_code == ExitCode.INTERRUPTED else rank  # all of them stopped
    return _with_progress(ending, tracker.current).model_copy(update={"rank": blamed})


@dataclass(frozen=True)
class ExitReport:
    """The last word of one process, left in a file: its pipe may be broken, or another thread writing to it."""

    ending: contract.Termination
    time: float
    """``time.monotonic()``, which all processes of a machine share."""
    is_collateral: bool

    @classmethod
    def read(cls, folder: Path, rank: int) -> ExitReport | None:
        try:
            told = json.loads((folder / f"{rank}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return cls(contract.Termination.model_validate(told["ending"]), told["time"], told["collateral"])

    def write(self, folder: Path, rank: int) -> None:
        told = {
            "ending": json.loads(self.ending.to_json()),
            "time": self.time,
            "collateral": self.is_collateral,
        }
        partial = folder / f".{rank}.json"
        partial.write_text(json.dumps(told), encoding="utf-8")
        partial.rename(folder / f"{rank}.json")


def verdict(
    words: Sequence[ExitReport | None],
    signals: Mapping[int, int],
    *,
    ended: float,
    stopped: bool,
    short_of_memory: bool,
) -> tuple[int, contract.Termination]:
    """Rank and last word of the process that the run failed by.

    ``signals``: the ranks that a signal killed. ``ended``: when all were gone. The first that knows what is wrong speaks for the run;
    then one that was killed; then the first whose error nobody foresaw; last those that ended because another had.
    """
    spoken = [(word.time, rank, word) for rank, word in enumerate(words) if word is not None]
    failed = [(at, rank, word) for at, rank, word in spoken if word.ending.exit_code != ExitCode.OK]
    silent = [rank for rank, word in enumerate(words) if word is None]

    def order(entry: tuple[float, int, ExitReport]) -> tuple[int, float]:
        at, _, word = entry
        interrupted = word.ending.exit_code == ExitCode.INTERRUPTED
        if word.is_collateral:
            return 3, at
        if interrupted and not stopped:
            return 2, at  # told to stop by the launcher, after another had failed
        return (1 if word.ending.exit_code == ExitCode.INTERNAL else 0), at

    first = min(failed, key=order, default=None)
    if first is not None:
        knows, unforeseen = order(first)[0] == 0, order(first)[0] == 1
        others_hung = ended - min(at for at, _, _ in failed) > LAUNCHER_KILLS_AFTER
        if knows or not silent or others_hung or (unforeseen and not signals):
            return first[1], first[2].ending
    killed = next((rank for rank in silent if signals.get(rank) == signal.SIGKILL), silent[0])
    return killed, _killed(killed, signals.get(killed), stopped, short_of_memory)


def _killed(rank: int, number: int | None, stopped: bool, short_of_memory: bool) -> contract.Termination:
    """The last word of a process that said none."""
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


def _with_progress(ending: contract.Termination, progress: contract.Progress) -> contract.Termination:
    """``ending`` with what the first process last told, where its own knows less."""
    known = {
        "step": progress.step,
        "total_steps": progress.total_steps,
        "loss": progress.loss,
        "checkpoint": progress.checkpoint,
        "resolved_policy": progress.resolved_policy,
    }
    return ending.model_copy(update={name: value for name, value in known.items() if getattr(ending, name) is None})


# In the process that launched the others


class Listener:
    """A thread that passes on what the processes tell, and tells them what they have to know."""

    def __init__(self, lines: Sequence[Connection], tracker: ProgressTracker, stop: Stop) -> None:
        self._lines = list(lines)
        self._tracker = tracker
        self._stop = stop
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="listener", daemon=True)
        self._pids: dict[int, int] = {}
        self._children: dict[int, BaseProcess] = {}
        self._told_to_stop: set[int] = set()
        self._told_of_death = False

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
        open_lines = {line: rank for rank, line in enumerate(self._lines)}
        while True:
            ready = wait(list(open_lines), timeout=0.1) if open_lines else []
            if not ready and self._over.wait(0 if open_lines else 0.1):
                return
            for line in ready:
                assert isinstance(line, Connection)
                try:
                    self._take(open_lines[line], *line.recv())
                except (EOFError, OSError):
                    del open_lines[line]
            self._pass_on_stop()
            self._tell_of_death()

    def _take(self, rank: int, what: str, *told: Any) -> None:
        if what == "here":
            self._pids[rank] = told[0]
            known = {child.pid: child for child in multiprocessing.active_children()}
            self._children |= {rank: known[pid] for rank, pid in self._pids.items() if pid in known}
        elif what == "progress":
            fields, logged = told
            self._tracker.update(log=logged, **fields)
        else:
            self._tracker.log(told[0])

    def _pass_on_stop(self) -> None:
        """SIGTERM, once to each: a terminal's Ctrl-C reaches them too, and is left to us."""
        if self._stop.requested:
            for rank in self._pids.keys() - self._told_to_stop:
                self._told_to_stop.add(rank)
                self._signal(self._pids[rank])

    def _signal(self, pid: int) -> None:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return  # it has ended meanwhile

    def _tell_of_death(self) -> None:
        """Once one is gone the others can only fail, or wait for it forever."""
        if self._told_of_death or not wait([child.sentinel for child in self._children.values()], timeout=0):
            return
        self._told_of_death = True
        for line in self._lines:
            try:
                line.send("one of us is gone")
            except OSError:
                continue  # that is the one


@contextmanager
def _network() -> Iterator[None]:
    """All processes are on this machine, so they speak over its loopback interface, whatever a pod's name resolves to."""
    ours = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    ours = {name: value for name, value in ours.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def _gpus() -> int:
    import torch

    return int(torch.cuda.device_count())


# In each of the processes


class Worker:
    """One of the processes: its place among them, and its line to the one that launched it."""

    def __init__(self, rank: int, count: int, line: Connection, folder: Path) -> None:
        self.rank = rank
        self.count = count
        self.display: Display = PipeDisplay(line) if rank == 0 else NullDisplay()
        self._line = line
        self._folder = folder
        self._ended = False

    def arrive(self) -> None:
        """Say so, and from now on end with those that this process depends on."""
        threading.Thread(target=self._mind_the_others, name="siblings", daemon=True).start()
        self._line.send(("here", os.getpid()))

    def leave(self, ending: contract.Termination, *, is_collateral: bool = False) -> None:
        """The last word, which the launching process weighs against the others'."""
        self._ended = True
        ExitReport(ending, time.monotonic(), is_collateral).write(self._folder, self.rank)

    def _mind_the_others(self) -> None:
        try:
            self._line.recv()
        except (EOFError, OSError):
            os._exit(ExitCode.INTERNAL)  # the launching process is gone
        time.sleep(SIBLING_GRACE_SECONDS)
        if not self._ended:
            lost = SiblingLost("another process ended")
            ending = exits.termination(lost.reason, int(lost.exit_code), str(lost), contract.Progress())
            self.leave(ending, is_collateral=True)
            os._exit(ExitCode.INTERNAL)


class PipeDisplay:
    """Shows nothing here: what is told goes to the launching process."""

    def __init__(self, line: Connection) -> None:
        self._line = line

    def progress(self, progress: contract.Progress, *, logged: bool) -> None:
        self._line.send(("progress", progress.model_dump(), logged))

    def log(self, message: str) -> None:
        self._line.send(("log", message))

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


def named(error: BaseException) -> BaseException:
    """``error``, or SiblingLost in its place where it only says that another process is gone."""
    text = str(error).lower()
    if isinstance(error, RuntimeError | ConnectionError) and any(sign in text for sign in SIGNS):
        return SiblingLost(f"another process ended ({str(error).splitlines()[0][:200]})")
    return error


def _start(work: Callable[[Worker], contract.Termination], lines: list[Connection], folder: Path) -> None:
    """What the launcher calls in each process."""
    # However the launching process ends, it takes this one along, as process 1 of a pod does.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the launching process passes it on
    rank = int(os.environ["RANK"])
    member = Worker(rank, len(lines), lines[rank], folder)
    member.arrive()
    ending = work(member)
    if ending.exit_code != ExitCode.OK:
        # Not by way of destructors: those of a broken process group may wait for the others.
        os._exit(ending.exit_code)
