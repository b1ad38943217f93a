"""The queue of keys to look at, with the contract of client-go's workqueue.

- A key is never in the hands of two workers.
- Tenants take turns: of how many keys another one has, a key sees at most one at a time. What a tenant is, ``tenant`` says of a key.
- Of a tenant's keys those added ``ahead`` are handed out before all others, in their order.
- A key added while it is being worked on is handed out once more when that is done; added twice, it is handed out once.
- Each ``backoff`` of a key doubles its delay, up to a limit; ``forget`` starts anew. Delays are jittered, so that what failed
  together does not come back together.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_DELAY = 0.25
LONGEST_DELAY = 300.0
RETRIED_LONGEST = 60.0
"""Seconds between two tries of what passes by itself: a quota may have room by then, an API server be back."""


@dataclass(frozen=True, slots=True)
class Result:
    """When a key is to be looked at again, besides when something happens to it."""

    requeue_after: float | None = None
    """Seconds from now; None waits for an event."""
    failed: bool = False
    """The delay doubles each time, from ``FIRST_DELAY`` up to ``requeue_after`` (or ``LONGEST_DELAY``)."""

    not_before: float = 0.0
    """Of a failure: seconds that are waited at least."""
    outcome: str = "done"
    """How it is counted."""

    never: ClassVar[Result]

    def or_sooner(self, seconds: float | None) -> Result:
        """The sooner of the two."""
        if seconds is None or self.failed or (self.requeue_after is not None and self.requeue_after <= seconds):
            return self
        return Result(requeue_after=max(seconds, 0.0))


Result.never = Result()


@dataclass(slots=True)
class _Line(Generic[K]):
    """The keys of one tenant."""

    ahead: deque[K] = field(default_factory=deque)
    ready: deque[K] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.ahead) + len(self.ready)


class Queue(Generic[K]):
    """Made for one event loop: nothing here is thread-safe."""

    def __init__(self, jitter: random.Random | None = None, tenant: Callable[[K], Hashable] = lambda _: None) -> None:
        self._tenant = tenant
        self._lines: dict[Hashable, _Line[K]] = {}
        """Of the tenants that have keys, in the order of their turns."""
        self._dirty: set[K] = set()
        self._working: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()
        self._jitter = jitter or random.Random()

    def __len__(self) -> int:
        return len(self._dirty)

    def add(self, key: K, *, ahead: bool = False) -> None:
        """Hands the key out as soon as a worker is free."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._working:
            self._put(key, ahead=ahead)

    def add_after(self, key: K, seconds: float) -> None:
        """Adds the key later. Of two delays the shorter one holds."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self._due, key)

    def backoff(self, key: K, longest: float = LONGEST_DELAY, not_before: float = 0.0) -> float:
        """Adds the key after its present delay, or ``not_before`` where that is longer, which is returned, and doubles the next."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(FIRST_DELAY * 2.0 ** min(failures, 32), longest) * self._jitter.uniform(0.75, 1.25)
        delay = max(delay, not_before)
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure waits the shortest delay again."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key. Whoever gets it calls ``done`` with it."""
        while not self._lines:
            self._wake.clear()
            await self._wake.wait()
        tenant, line = next(iter(self._lines.items()))
        key = (line.ahead or line.ready).popleft()
        del self._lines[tenant]
        if line:
            self._lines[tenant] = line  # at the end: whoever waits comes first
        self._dirty.discard(key)
        self._working.add(key)
        return key

    def done(self, key: K) -> None:
        """The worker is finished with the key, well or not."""
        self._working.discard(key)
        if key in self._dirty:
            self._put(key)

    def _put(self, key: K, *, ahead: bool = False) -> None:
        line = self._lines.setdefault(self._tenant(key), _Line())
        (line.ahead if ahead else line.ready).append(key)
        self._wake.set()

    def _due(self, key: K) -> None:
        del self._timers[key]
        self.add(key)
