"""When each of many things is read again, and how much may be read of all together.

Reads of what changes by itself are nobody's event: they are made beside the workers, which wait for none of them.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, NoReturn, TypeVar

K = TypeVar("K", bound=Hashable)

Clock = Callable[[], float]
TICK_SECONDS = 1.0
"""Nothing that is read is worth more haste."""


class Schedule(Generic[K]):
    """Keys by the time at which each is due: a heap, so that a thousand that are not cost nothing."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: K) -> bool:
        return key in self._due

    def set(self, key: K, seconds: float) -> None:
        """Due in so many seconds, whatever was before."""
        self._due[key] = self.clock() + seconds
        heapq.heappush(self._heap, (self._due[key], next(self._order), key))

    def set_sooner(self, key: K, seconds: float) -> None:
        """Due in so many seconds at the latest: who is asked for again and again is not put off."""
        if self._due.get(key, float("inf")) > self.clock() + seconds:
            self.set(key, seconds)

    def remove(self, key: K) -> None:
        self._due.pop(key, None)

    def pop(self) -> K | None:
        """The key that has been due for longest, which is then in no place; None when none is."""
        while self._heap:
            due, _, key = self._heap[0]
            if self._due.get(key) == due and due > self.clock():
                return None
            heapq.heappop(self._heap)
            if self._due.get(key) == due:  # else it was removed, or set anew
                del self._due[key]
                return key
        return None


class ReadBudget:
    """Of all reads together: so many a second, and so many at once. Who has no turn yet waits for it."""

    def __init__(
        self,
        per_second: float,
        at_once: int,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.per_second = per_second
        self._places = asyncio.Semaphore(at_once)
        self._free_at = clock()
        self._clock = clock
        self._sleep = sleep

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self._places:
            now = self._clock()
            at = max(now, self._free_at)
            self._free_at = at + 1 / self.per_second
            if at > now:
                await self._sleep(at - now)
            yield


async def poll(
    schedule: Schedule[K], read: Callable[[K], Awaitable[float | None]], discover: Callable[[], None] = lambda: None
) -> NoReturn:
    """Until cancelled, reads what is due; ``read`` gives the seconds after which to do so again, None for never. A key is never read
    twice at once, and one that takes long keeps no other waiting. ``discover`` is called before each look: it fills the schedule."""

    async def once(key: K) -> None:
        seconds = await read(key)
        if seconds is not None:
            schedule.set(key, seconds)

    async with asyncio.TaskGroup() as group:
        while True:
            discover()
            while (key := schedule.pop()) is not None:
                group.create_task(once(key))
            await asyncio.sleep(TICK_SECONDS)
