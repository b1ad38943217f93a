"""Several machines that make one corpus, each a part of every stage. They meet in files of the folder that the stages lie in, and nowhere else:
one that is lost is replaced by another of its number, which finds what was made, and the others wait for it.

Below that folder lies ``nodes-<group>/``::

    alive.<node>      changes as long as the node lives
    <stage>.<node>    all that the node had to make of a stage is made, and was looked at by a run of this group
    left.<node>       the node has made its part of the last stage
"""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from workloads.errors import WorkloadError
from workloads.system import atomic
from workloads.system.os_errors import sentence

BEAT_SECONDS = 5.0
"""Between two signs of life."""
LEFT, MEETING = "left", "nodes-"

LOOK_SECONDS = 0.2
"""Between two looks at what others have made."""


@dataclass(frozen=True)
class Node:
    """Which of how many machines this is, and what the run of all of them is called."""

    index: int = 0
    count: int = 1
    group: str = ""

    @property
    def is_first(self) -> bool:
        """Whether it makes what is not shared out, and publishes."""
        return self.index == 0

    def part(self, tasks: int) -> range:
        """The shares of a stage that this machine makes."""
        return range(self.index, tasks, self.count)


ALONE = Node()


class Meeting:
    """The machines of a run, as one of them sees the others."""

    def __init__(
        self, node: Node, home: Path, patience: float, heartbeat: Callable[[], None], log: Callable[[str], None]
    ) -> None:
        """``home`` is one folder for all; ``patience``: seconds without a sign of life after which a machine counts as lost; ``heartbeat`` is
        called while this one waits, and raises where it is to stop."""
        self.node, self.home, self.patience = node, home, patience
        self._folder = home / f"{MEETING}{node.group}"
        self._heartbeat, self._log = heartbeat, log
        self._heard: dict[int, tuple[str, float]] = {}

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Meet the others, and show them that this one lives while the block runs. Raises WorkloadError where one of them does not come."""
        if self.node.count == 1:
            yield
            return
        over = threading.Event()
        self._folder.mkdir(parents=True, exist_ok=True)
        thread = threading.Thread(target=self._live, args=(over,), name="nodes", daemon=True)
        thread.start()
        try:
            self._log(f"node {self.node.index} of {self.node.count}, over {self.home}")
            self._await(lambda other: self._sign(other) != "", self._others(), "come")
            yield
        finally:
            over.set()
            thread.join()
        if self.node.is_first:
            shutil.rmtree(self._folder, ignore_errors=True)  # a late sign of another may come back, and is of no harm

    def leave(self, name: str) -> None:
        """This machine has made its part of the last stage, and is not waited for any more: by the time that this is seen, it is known to have left."""
        for done in (LEFT, name):
            atomic.write_text(self._mark(done, self.node.index), "")

    def has_left(self, node: int) -> bool:
        return self._mark(LEFT, node).is_file()

    def wait(self, name: str, tasks: int, idle: Callable[[], None] = lambda: None, *, is_last: bool = False) -> None:
        """Say that this machine has made its part of a stage of so many shares, and wait for the others. Raises WorkloadError where one of them
        is lost.

        ``is_last``: those that have no share are waited for too, as what follows takes away the files that they still look at."""
        atomic.write_text(self._mark(name, self.node.index), "")
        owners = [other for other in self._others() if is_last or other < tasks]
        self._await(lambda other: self._mark(name, other).is_file(), owners, f"made its part of {name}", idle)

    def wait_until_seen(self, missing: Callable[[], Iterable[int]], name: str) -> None:
        """Until this machine sees what the others say that they have made: a network's file system shows it a little later."""
        deadline = time.monotonic() + self.patience
        while (rank := next(iter(missing()), None)) is not None:
            if time.monotonic() > deadline:
                raise WorkloadError(
                    f"share {rank} of {name} was made by node {rank % self.node.count}, and node {self.node.index} does not see it in {self.home}: "
                    "that has to be one folder for all nodes"
                )
            self._heartbeat()
            time.sleep(LOOK_SECONDS)

    def _await(
        self, has: Callable[[int], bool], owners: Iterable[int], what: str, idle: Callable[[], None] = lambda: None
    ) -> None:
        for other in owners:
            self._heard[other] = ("", time.monotonic())
            while not has(other):
                self._must_live(other, what)
                idle()
                self._heartbeat()
                time.sleep(LOOK_SECONDS)

    def _must_live(self, other: int, what: str) -> None:
        last, at = self._heard[other]
        now = self._sign(other)
        if now != last:
            self._heard[other] = (now, time.monotonic())
        elif time.monotonic() - at > self.patience:
            raise WorkloadError(
                f"node {other} of {self.node.count} has not {what}, and showed no life for {self.patience:.0f} s "
                f"(failurePolicy.hangTimeoutSeconds): see whether its pod runs, and whether {self.home} is one folder for all nodes, on a volume that "
                "all of them mount (ReadWriteMany): that of spec.cache, or without it that of spec.output.uri"
            )

    def _live(self, over: threading.Event) -> None:
        """A volume that does not answer for a moment costs a sign, and the work itself will tell of it."""
        told = False
        for number in itertools.count():
            try:
                atomic.write_text(
                    self._alive(self.node.index), f"{threading.get_native_id()} {time.time_ns()} {number}"
                )
            except OSError as error:
                if not told:
                    self._log(f"no sign of life for the other nodes: {sentence(error, self._folder, 'write')}")
                told = True
            if over.wait(BEAT_SECONDS):
                return

    def _sign(self, other: int) -> str:
        try:
            return self._alive(other).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def _others(self) -> list[int]:
        return [other for other in range(self.node.count) if other != self.node.index]

    def _alive(self, node: int) -> Path:
        return self._folder / f"alive.{node}"

    def _mark(self, name: str, node: int) -> Path:
        return self._folder / f"{name}.{node}"
