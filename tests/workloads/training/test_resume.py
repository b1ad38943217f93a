"""A run that is killed and started again makes the same steps, to the last bit, and publishes the same weights."""

from __future__ import annotations

import hashlib
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.runs import Line, Place, job

SEEDS = random.SystemRandom()

CASES = {
    "LoRA, packed, with dropout, NEFTune and a validation set": {
        "dataset": {"validationSplit": 0.15},
        "lora": {"dropout": 0.2},
        "training": {"epochs": 3, "saveSteps": 3, "neftuneAlpha": 5},
    },
    "a whole model, not packed, losses logged every third step": {
        "method": "Full",
        "dataset": {"packing": False, "validationSplit": 0.15},
        "training": {
            "epochs": 2.5,
            "saveSteps": 4,
            "logSteps": 3,
            "evalSteps": 5,
            "batchSizePerDevice": 3,
            "learningRate": 3e-3,
            "scheduler": "cosine_with_min_lr",
        },
    },
    "early stopping, which publishes the best": {
        "dataset": {"validationSplit": 0.3},
        "training": {"epochs": 40, "saveSteps": 4, "evalSteps": 2, "earlyStoppingPatience": 2, "learningRate": 0.3},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(case: str, place: Place, capsys: Any) -> None:
    spec = CASES[case]
    whole = place.run(job(output={"uri": "whole"}, **spec))
    assert whole.exit_code == 0, whole.text
    last = max(line["step"] for line in whole.lines if "step" in line)

    seed = SEEDS.randrange(1 << 30)
    print(f"\n{case}: seed {seed}")
    draw = random.Random(seed)
    losses: dict[int, set[float]] = {}
    evaluations: dict[int, set[float]] = {}
    endings = []
    for attempt in range(12):
        killer = _killer(draw, last) if attempt < 6 else lambda line: None
        ended = place.run(job(output={"uri": "broken"}, **spec), at=killer)
        for step, loss in ended.losses.items():
            losses.setdefault(step, set()).add(loss)
        for step, loss in ended.evaluations.items():
            evaluations.setdefault(step, set()).add(loss)
        endings.append(ended.exit_code)
        assert ended.exit_code in (0, 75, -signal.SIGKILL), ended.text
        if ended.exit_code == 0:
            break
    print(f"ended {endings} over {last} steps")

    assert losses == {step: {loss} for step, loss in whole.losses.items()}
    assert evaluations == {step: {loss} for step, loss in whole.evaluations.items()}
    assert _weights(place.folder / "broken") == _weights(place.folder / "whole")
    assert not (place.folder / "broken.checkpoints").exists()


STOPS = 6
"""In evaluations, before a run is left alone."""


EARLY = {"epochs": 40, "evalSteps": 2, "earlyStoppingPatience": 2, "learningRate": 0.3, "seed": 7}


@pytest.mark.parametrize(
    ("training", "stops"),
    [
        pytest.param({"epochs": 2, "evalSteps": 4}, STOPS, id="to the end"),
        pytest.param(EARLY, STOPS, id="to an early stop"),
        pytest.param(EARLY, 200, id="to an early stop, without being left alone", marks=pytest.mark.drill),
    ],
)
def test_an_evaluation_that_a_stop_cuts_short_is_made_by_the_next_run(
    training: dict[str, Any], stops: int, place: Place
) -> None:
    # One row a batch, so that the stop finds the evaluation at work.
    dataset = {"packing": False, "validation": [{"uri": "train.json"}]}
    training = {"gradientAccumulation": 12, "saveSteps": 100, **training}
    whole = place.run(job(output={"uri": "whole"}, dataset=dataset, training=training))
    assert whole.exit_code == 0, whole.text

    evaluations: dict[int, float] = {}
    # When it stops early is the machine's rounding's affair: on one after 7 evaluations, on another after 24.
    for attempt in range(min(stops, 2 * len(whole.evaluations) + 1) + 1):
        # Every other run is stopped in its first evaluation, the others, which have to make up for it, in their second.
        at = _stop_in_evaluation(1 + attempt % 2) if attempt < stops else _left_alone
        ended = place.run(job(output={"uri": "broken"}, dataset=dataset, training=training), at=at)
        assert ended.exit_code in (0, 75), ended.text
        evaluations |= ended.evaluations
        assert ended.losses.items() <= whole.losses.items()
        if ended.exit_code == 0:
            break
    assert ended.exit_code == 0
    assert attempt > 0
    assert evaluations == whole.evaluations
    assert ended.metrics == whole.metrics
    assert _weights(place.folder / "broken") == _weights(place.folder / "whole")


def _left_alone(line: Line) -> None:
    return None


def _stop_in_evaluation(number: int) -> Any:
    """Stops the run as its ``number``-th evaluation begins."""
    begun = 0

    def at(line: Line) -> int | None:
        nonlocal begun
        begun += line == {"time": line["time"], "stage": "Evaluating"}
        return signal.SIGTERM if begun == number else None

    return at


def _killer(draw: random.Random, last: int) -> Any:
    """Kills or stops the run at some step, in some stage of it."""
    number = draw.choice([signal.SIGTERM, signal.SIGKILL])
    stage = draw.choice(["Training", "Training", "Evaluating", "Saving"])
    step = draw.randint(1, last)
    seen = 0
    done = False

    def at(line: Line) -> int | None:
        nonlocal seen, done
        seen = max(seen, line.get("step", 0))
        if done or seen < step or line.get("stage") != stage:
            return None
        done = True
        return number

    return at


def _weights(folder: Path) -> dict[str, str]:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}
    assert found, f"no weights in {folder}"
    return found
