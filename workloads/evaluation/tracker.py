"""The measurements on one model after the other, and how far they are: what is through is kept as a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from workloads.errors import Interrupted
from workloads.evaluation.result import EvaluationResult
from workloads.runtime.runtime import Runtime

SAVE_SECONDS = 60.0
"""At most so much work is lost when a pod is killed."""


class EvaluationTracker:
    """Counts rows, questions and tasks over all models, saves now and then, and knows about how long the rest takes.

    A part's pace is that of its units so far, in this model or in one before; until every part that is still to come has one, no
    time is shown.
    """

    def __init__(self, runtime: Runtime, result: EvaluationResult, units: Mapping[str, int]) -> None:
        """``units``: how many of each part there are, of all models together."""
        self._runtime = runtime
        self._result = result
        self._left = {part: count for part, count in units.items() if count}
        self._total = sum(self._left.values())
        self._paces: dict[str, tuple[int, float]] = {}
        self._saved_at = time.monotonic()

    @property
    def done(self) -> int:
        return self._total - sum(self._left.values())

    def skip(self, part: str, count: int) -> None:
        """Through already, in a run before."""
        if count:
            self._left[part] -= count

    def heartbeat(self) -> None:
        """Work goes on. Raises Interrupted, with everything saved, when a stop was requested."""
        self._runtime.progress.heartbeat()
        if self._runtime.stop.requested:
            self.save()
            raise self.interrupted()

    def interrupted(self) -> Interrupted:
        return Interrupted(
            f"stopped after {self.done} of {self._total} measurements, which are kept: run again to go on"
        )

    @contextmanager
    def part(self, name: str, seconds: dict[str, float], stage: str) -> Iterator[Callable[[int], None]]:
        """A part of a model's measurements; what is given counts units of it that are through. ``seconds`` gets the time it took."""
        last = time.monotonic()

        def count(units: int) -> None:
            nonlocal last
            now = time.monotonic()
            before = self._paces.get(name, (0, 0.0))
            self._paces[name] = (before[0] + units, before[1] + now - last)
            seconds[name] = seconds.get(name, 0.0) + now - last
            last = now
            self._left[name] -= units
            self.report(stage)
            if now - self._saved_at > SAVE_SECONDS:
                self.save()

        self.report(stage)
        yield count
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - last

    def report(self, stage: str) -> None:
        self._runtime.progress.update(
            log=True, stage=stage, step=self.done, total_steps=self._total, eta_seconds=self._eta()
        )

    def save(self) -> None:
        """Keep what was found as a checkpoint, the only one."""
        with self._runtime.checkpoints.write(self.done) as folder:
            self._result.save(folder)
        self._runtime.checkpoints.prune(1)
        self._saved_at = time.monotonic()

    def _eta(self) -> int | None:
        seconds = 0.0
        for part, left in self._left.items():
            if left:
                units, spent = self._paces.get(part, (0, 0.0))
                if not units:
                    return None
                seconds += left * spent / units
        return round(seconds)
