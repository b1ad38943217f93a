"""The processes that train one model together, as each of them sees the others.

Where one waits for another's work (a corpus to be tokenised, a checkpoint to be written) it does so here and not in a collective
operation, which would count as a hang: waiting shows the watchdog that life goes on, and how long it takes is the other's affair.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

LONGEST_PAUSE = 0.25
"""Seconds between two looks whether the other is ready."""


class DistributedContext:
    """One process of ``count``. Alone (of 1) everything here is free and nothing is imported."""

    def __init__(
        self,
        rank: int = 0,
        count: int = 1,
        heartbeat: Callable[[], None] = lambda: None,
        *,
        local_rank: int | None = None,
        node: int = 0,
    ) -> None:
        self.rank = rank
        self.count = count
        self._is_first_here = (rank if local_rank is None else local_rank) == 0
        self._node = node
        self._heartbeat = heartbeat
        self._events = 0
        self._store: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes, publishes and speaks."""
        return self.rank == 0

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The first process of each machine goes through this block before its others do, who find what it made."""
        done = f"{self._event()}/node-{self._node}"
        if not self._is_first_here:
            self._wait(done)
        yield
        if self._is_first_here and self.count > 1:
            self._rendezvous_store().set(done, "1")

    def broadcast_object(self, find: Callable[[], T]) -> T:
        """What ``find`` gave in the first process, in all of them; it has to be JSON."""
        event = self._event()
        if self.count == 1:
            return find()
        if self.is_main:
            found = find()
            self._rendezvous_store().set(event, json.dumps(found))
            return found
        self._wait(event)
        value: T = json.loads(self._rendezvous_store().get(event))
        return value

    def barrier(self) -> None:
        """Go on when all have come here."""
        event = self._event()
        if self.count == 1:
            return
        if self._rendezvous_store().add(f"{event}/here", 1) == self.count:
            self._rendezvous_store().set(event, "1")
        self._wait(event)

    def all_reduce_sum(self, *values: float) -> list[float]:
        """Each value summed over the processes, in float64. All have to call this as often: it is a collective operation."""
        if self.count == 1:
            return [float(value) for value in values]
        import torch
        import torch.distributed

        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        sums = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(sums)
        return [float(value) for value in sums.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether it is true in one of them at least. A collective operation, too."""
        return self.all_reduce_sum(float(flag))[0] > 0

    def all_gather_object(self, value: T) -> list[T]:
        """The value of each process, by rank. A collective operation, too."""
        if self.count == 1:
            return [value]
        import torch.distributed

        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, value)
        return found

    def _event(self) -> str:
        """A name that all processes give to the same event: they come to each in the same order."""
        self._events += 1
        return f"literary-alpaca/{self._events}"

    def _wait(self, key: str) -> None:
        pause = 0.005
        while not self._rendezvous_store().check([key]):
            self._heartbeat()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _rendezvous_store(self) -> Any:
        """The store that the launching process keeps: it is there before the process group is, and after."""
        if self._store is None:
            from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is public, and not listed

            self._store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        return self._store
