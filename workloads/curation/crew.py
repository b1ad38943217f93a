"""Processes that make the shares of a stage: as many as were asked for, each told what to do next as soon as it is done."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import TYPE_CHECKING, Any

from workloads.errors import OutOfMemory, WorkloadError
from workloads.system.describe import first_line

if TYPE_CHECKING:
    from workloads.curation.executor import Stage

POLL_SECONDS = 1.0
Hear = Callable[[int, int], None]
"""Hears, of a share, of so many documents more."""


IMPORTED = ["workloads.curation.stages"]
"""What members need. It takes more than a second, which would be much beside a small corpus."""


def prepare(processes: int) -> None:
    """Have what members need imported once, in a process of which they are forks, while this one does something else."""
    if processes > 1:
        multiprocessing.set_forkserver_preload(IMPORTED)
        forkserver.ensure_running()


class Crew:
    """One process: this one. More: others, which end with it, however it ends."""

    def __init__(self, processes: int) -> None:
        self._count = processes
        self._context = multiprocessing.get_context("forkserver")
        self._members: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe, process in self._members.items():
            if kind is not None:
                process.terminate()
            pipe.close()
        for process in self._members.values():
            process.join()
        self._members = {}

    def make(self, stage: Stage, ranks: Sequence[int], hear: Hear, idle: Callable[[], None]) -> None:
        """Make these shares of a stage. ``idle`` is called now and then while nobody says anything.

        Raises what a share raised, and OutOfMemory where a process was killed.
        """
        if self._count == 1 or len(ranks) == 1:
            for rank in ranks:
                stage.make(rank, partial(hear, rank))
            return
        self._recruit(min(self._count, len(ranks)))
        waiting, busy = list(reversed(ranks)), set[Connection]()
        said = pickle.dumps(stage)  # once: it names all files of the sources
        for pipe in self._members:
            if waiting:
                pipe.send_bytes(said)
                pipe.send(waiting.pop())
                busy.add(pipe)
        while busy:
            ready = wait(list(busy), POLL_SECONDS)
            if not ready:
                idle()
            for speaker in ready:
                assert isinstance(speaker, Connection)
                done = self._heard(speaker, hear)
                if done and waiting:
                    speaker.send(waiting.pop())
                elif done:
                    busy.remove(speaker)

    def _recruit(self, count: int) -> None:
        while len(self._members) < count:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._members[ours] = process

    def _heard(self, pipe: Connection, hear: Hear) -> bool:
        """Take what a member says; whether its share is done."""
        try:
            word, value = pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            process = self._members[pipe]
            process.join()
            raise _lost(process.exitcode or 0) from error
        if word == "failed":
            raise value
        if word == "documents":
            hear(*value)
        return bool(word == "done")


def _lost(code: int) -> WorkloadError:
    if code == -signal.SIGKILL:
        return OutOfMemory(
            "a process that cleans was killed by the kernel, which is how too little memory ends: raise pod.resources.limits.memory, or lower "
            "parallelism.processesPerNode"
        )
    return WorkloadError(f"a process that cleans ended with {code} and said nothing: run again to go on")


def _leave_with(parent: BaseProcess) -> None:
    """A member whose first process was killed writes nothing more: the next run may be making the same share."""
    wait([parent.sentinel])
    os._exit(1)


def _work(pipe: Connection) -> None:
    """The life of a member: until its pipe is closed, or whoever held the other end is gone."""
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a terminal's Ctrl-C reaches it too, and is the first process's affair
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stage: Any = None
    while True:
        try:
            said = pipe.recv()
        except EOFError:
            return
        if not isinstance(said, int):
            stage = said  # the shares of which follow
            continue
        rank = said
        try:
            stage.make(rank, partial(_say, pipe, rank))
        except Exception as error:  # noqa: BLE001 - it is raised again where it can be told
            pipe.send(("failed", _portable(error)))
        else:
            pipe.send(("done", rank))


def _say(pipe: Connection, rank: int, documents: int) -> None:
    pipe.send(("documents", (rank, documents)))


def _portable(error: Exception) -> Exception:
    """The error, or one that says the same where it cannot be sent."""
    if not isinstance(error, WorkloadError):
        error.add_note(traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever a library's own error does when it is copied
        return RuntimeError(f"{type(error).__name__}: {first_line(error)}\n{traceback.format_exc()}")
    return error
