"""How often figures may be written."""

from __future__ import annotations

import time
from collections.abc import Callable

from alpaca_operator.cluster.store import Key


class WriteBudget:
    """Of progress writes: so many a second overall, and one per resource in so many seconds. Never used for changes of state.

    Who must wait gets a time of its own, so that a thousand who wait do not ask again and again.
    """

    def __init__(self, per_second: float, resource_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._spacing = 1 / per_second
        self._resource_seconds = resource_seconds
        self._clock = clock
        self._free_at = clock()
        self._turn: dict[Key, float] = {}
        self._written: dict[Key, float] = {}

    def ask(self, key: Key) -> float:
        """0 grants a write; else the seconds after which to ask again."""
        now = self._clock()
        if key not in self._turn:
            earliest = max(now, self._written.get(key, now - self._resource_seconds) + self._resource_seconds)
            if earliest > now:
                return earliest - now
            self._turn[key] = max(now, self._free_at)
            self._free_at = self._turn[key] + self._spacing
        if (wait := self._turn[key] - now) > 0:
            return wait
        del self._turn[key]
        self._written[key] = now
        return 0.0

    def told(self, key: Key) -> None:
        """A change of state was written, and the figures with it: the next ones have time."""
        self._turn.pop(key, None)
        self._written[key] = self._clock()

    def forget(self, key: Key) -> None:
        self._turn.pop(key, None)
        self._written.pop(key, None)
