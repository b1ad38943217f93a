"""How far an evaluation is, and how long it takes still."""

from __future__ import annotations

from typing import Any

import pytest

from workloads.errors import Interrupted
from workloads.evaluation.result import EvaluationResult
from workloads.evaluation.tracker import SAVE_SECONDS, EvaluationTracker


class Here:
    """A runtime that writes down what it is told."""

    def __init__(self, folder: Any) -> None:
        self.told: list[dict[str, Any]] = []
        self.saved: list[int] = []
        self.folder = folder
        self.progress = self.stop = self.checkpoints = self
        self.requested = False

    def update(self, **fields: Any) -> None:
        self.told.append(fields)

    def heartbeat(self) -> None:
        pass

    def write(self, step: int) -> Any:
        from contextlib import nullcontext

        self.saved.append(step)
        return nullcontext(self.folder)

    def prune(self, keep: int) -> None:
        assert keep == 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("workloads.evaluation.tracker.time.monotonic", lambda: now[0])
    return now


def test_the_time_that_is_left_is_told_once_every_part_has_a_pace(clock: list[float], tmp_path: Any) -> None:
    runtime = Here(tmp_path)
    tracker = EvaluationTracker(runtime, EvaluationResult(), {"rows": 8, "answers": 4, "tasks": 0})  # type: ignore[arg-type]
    seconds: dict[str, float] = {}
    with tracker.part("rows", seconds, "Evaluating") as count:
        for _ in range(2):
            clock[0] += 2
            count(2)
    assert runtime.told[-1]["eta_seconds"] is None, "nobody knows how long answers take"
    with tracker.part("answers", seconds, "Answering") as count:
        clock[0] += 10
        count(1)
        assert runtime.told[-1]["eta_seconds"] == 3 * 10 + 4 * 1
        clock[0] += 20
        count(1)
    assert runtime.told[-1] == {
        "log": True,
        "stage": "Answering",
        "step": 6,
        "total_steps": 12,
        "eta_seconds": 2 * 15 + 4 * 1,
    }
    assert seconds == {"rows": 4.0, "answers": 30.0}


def test_what_was_found_before_is_not_counted_again_and_what_is_found_is_saved_now_and_then(
    clock: list[float], tmp_path: Any
) -> None:
    runtime = Here(tmp_path)
    tracker = EvaluationTracker(runtime, EvaluationResult(), {"rows": 100})  # type: ignore[arg-type]
    tracker.skip("rows", 40)
    with tracker.part("rows", {}, "Evaluating") as count:
        for _ in range(6):
            clock[0] += SAVE_SECONDS / 2 + 1
            count(10)
    assert runtime.saved == [60, 80, 100]


def test_a_stop_saves_and_tells_how_far_it_was(tmp_path: Any) -> None:
    runtime = Here(tmp_path)
    tracker = EvaluationTracker(runtime, EvaluationResult(), {"rows": 20})  # type: ignore[arg-type]
    tracker.heartbeat()
    tracker.skip("rows", 7)
    runtime.requested = True
    with pytest.raises(Interrupted, match=r"^stopped after 7 of 20 measurements, which are kept: run again to go on$"):
        tracker.heartbeat()
    assert runtime.saved == [7]
