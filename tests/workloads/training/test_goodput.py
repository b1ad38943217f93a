"""What a job has lost to kills is told, and is what one counts who reads the log of every run."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise

from tests.workloads.runs import Ended, Line, Place, job

SAVE_STEPS = 3
KILLS = 5
SEEDS = random.SystemRandom()


def test_what_kills_cost_is_told_and_is_never_more_than_save_steps(place: Place) -> None:
    seed = SEEDS.randrange(1 << 30)
    print(f"\nseed {seed}")
    draw = random.Random(seed)
    spec = {"training": {"epochs": 6, "saveSteps": SAVE_STEPS, "gradientAccumulation": 2}, "lora": {"dropout": 0}}
    processes: dict[int, int] = {}
    runs: list[Ended] = []
    while not runs or runs[-1].exit_code:
        count = draw.choice([1, 2, 4]) if runs else 2
        ended = place.run(
            job(**spec, parallelism={"processesPerNode": count}),
            at=_killer(draw, 1 if runs else SAVE_STEPS + 1) if len(runs) < KILLS else lambda line: None,
        )
        processes[id(ended)] = count
        assert ended.exit_code in (0, -signal.SIGKILL), ended.text
        runs.append(ended)
    print([(min(run.losses), max(run.losses)) for run in runs if run.losses])

    trained = [run for run in runs if run.losses]
    for before, after in pairwise(trained):
        assert 0 <= max(before.losses) - (min(after.losses) - 1) <= SAVE_STEPS
    done = 0
    for kills, run in enumerate(trained):
        for line in (line for line in run.lines if "goodput" in line):
            done += 1
            # A kill may come between a step and its line.
            assert done <= round(line["step"] / line["goodput"]["steps"]) <= done + kills, line
    total = max(trained[-1].losses)
    metrics = runs[-1].termination["metrics"]
    assert done <= round(total / metrics["goodputSteps"]) <= done + len(trained) - 1
    assert 0 < metrics["goodputTime"] <= _seconds_in_steps(trained) / _seconds(runs)

    artifact = json.loads((place.folder / "out" / "artifact.json").read_text())
    assert [(one["firstStep"], one["processes"]) for one in artifact["attempts"]] == [
        (min(run.losses) - 1, processes[id(run)]) for run in trained
    ]
    for one, run in zip(artifact["attempts"], trained, strict=True):
        assert 0 <= one["lastStep"] - max(run.losses) <= 1
    assert any(message.startswith("goodput: ") for message in runs[-1].messages)
    assert not (place.folder / "out.checkpoints").exists()


def test_a_run_that_nothing_disturbs_loses_no_step(place: Place) -> None:
    ended = place.run(job(training={"maxSteps": 3}))
    assert ended.exit_code == 0, ended.text
    assert ended.termination["metrics"]["goodputSteps"] == 1.0
    assert 0 < ended.termination["metrics"]["goodputTime"] < 1


def _killer(draw: random.Random, first: int) -> Callable[[Line], int | None]:
    """Kills the run at one of its next steps, from the ``first`` on: without a checkpoint there is nothing that others could go on with."""
    left = draw.randint(first, 2 * SAVE_STEPS)

    def at(line: Line) -> int | None:
        nonlocal left
        left -= "loss" in line
        return signal.SIGKILL if left == 0 else None

    return at


def _seconds_in_steps(runs: list[Ended]) -> float:
    """Between the line before the first step and that of the last that counts, saves and evaluations included."""
    found = 0.0
    for run, after in zip(runs, [*runs[1:], None], strict=True):
        counts_to = max(run.losses) if after is None else min(after.losses) - 1
        steps = [number for number, line in enumerate(run.lines) if "loss" in line and line["step"] <= counts_to]
        if steps:
            found += (_time(run.lines[steps[-1]]) - _time(run.lines[steps[0] - 1])).total_seconds()
    return found


def _seconds(runs: list[Ended]) -> float:
    """From the first line of all to the last step."""
    last = max(number for number, line in enumerate(runs[-1].lines) if "loss" in line)
    return (_time(runs[-1].lines[last]) - _time(runs[0].lines[0])).total_seconds()


def _time(line: Line) -> datetime:
    return datetime.fromisoformat(line["time"])
