"""How much a training writes: the estimate beside what lies there."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.training import Loop
from tests.workloads.runs import Place, job, merged
from workloads.training import extent


@pytest.mark.parametrize(
    ("settings", "sequences", "processes", "steps"),
    [
        pytest.param({"gradientAccumulation": 8, "epochs": 1}, 12, 1, 2, id="the last step may have fewer"),
        pytest.param({"gradientAccumulation": 8, "epochs": 2.5}, 16, 1, 5, id="a part of a pass"),
        pytest.param({"gradientAccumulation": 2, "batchSizePerDevice": 4, "epochs": 3}, 32, 2, 6, id="two processes"),
        pytest.param({"maxSteps": 7}, 12, 1, 7, id="a number of steps"),
    ],
)
def test_steps_of_a_run(settings: dict[str, Any], sequences: int, processes: int, steps: int) -> None:
    assert extent.optimizer_steps(Loop.model_validate(settings), sequences, processes) == steps


@pytest.mark.parametrize(
    ("settings", "steps", "number"),
    [
        pytest.param({"keepCheckpoints": 2, "saveSteps": 100}, 1000, 3, id="those that are kept and the next"),
        pytest.param({"keepCheckpoints": 2, "saveSteps": 100}, 150, 2, id="a run that saves twice"),
        pytest.param({"keepCheckpoints": 5, "saveSteps": 100}, 40, 1, id="a run that saves at its end"),
        pytest.param({"keepCheckpoints": 2, "earlyStoppingPatience": 3}, 40, 4, id="the best besides"),
    ],
)
def test_checkpoints_that_lie_there_together(settings: dict[str, Any], steps: int, number: int) -> None:
    assert extent.checkpoints_at_once(Loop.model_validate(settings), steps) == number


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"method": "Full"}, id="a whole model"),
        pytest.param({"lora": {"rank": 64, "modulesToSave": ["embed_tokens", "lm_head"]}}, id="an adapter"),
        pytest.param({"method": "Full", "deepspeed": {"preset": "Zero2"}}, id="a whole model under ZeRO-2"),
    ],
)
def test_a_checkpoint_takes_what_was_estimated(spec: dict[str, Any], place: Place) -> None:
    training = {"maxSteps": 4, "saveSteps": 2}
    ended = place.run(
        job(**merged(spec, {"training": training})),
        at=lambda line: signal.SIGTERM if line.get("step") == 2 else None,
    )
    assert ended.exit_code == 75, ended.text
    (told,) = [line for line in ended.messages if "checkpoints of" in line]
    assert told.startswith("2 checkpoints of ")
    estimated = float(told.removeprefix("2 checkpoints of ").partition(" ")[0])
    found = [
        sum(file["size"] for file in json.loads(marker.read_text())["files"]) / 2**20
        for marker in Path(place.folder / "out.checkpoints").glob("run-*/checkpoint-*/checkpoint.json")
    ]
    assert max(found) == pytest.approx(estimated, rel=0.15, abs=0.15)
