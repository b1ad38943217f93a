"""A run goes on with another number of processes as if nothing had happened: the same rows in the same steps, losses equal but for rounding."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.workloads.runs import Ended, Line, Place, job, merged

CLOSE = 2e-5
"""Nats: what float32 sums in another order, of other processes' parts, make of a loss over a dozen steps."""

CASES: dict[str, dict[str, Any]] = {
    "an adapter on packed rows, by plain data parallelism": {
        "lora": {"dropout": 0},
        "dataset": {"validationSplit": 0.15},
        "training": {"logSteps": 2},
    },
    "a whole model under ZeRO-2": {
        "method": "Full",
        "deepspeed": {"preset": "Zero2"},
        "dataset": {"packing": False, "validationSplit": 0.15},
        "training": {"batchSizePerDevice": 3, "learningRate": 3e-3},
    },
    "an adapter under ZeRO-2": {"lora": {"dropout": 0}, "deepspeed": {"preset": "Zero2"}},
    "an adapter with saved embeddings under ZeRO-3": {
        "lora": {"dropout": 0, "modulesToSave": ["embed_tokens", "lm_head"]},
        "deepspeed": {"preset": "Zero3"},
        "dataset": {"validationSplit": 0.15},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_it_goes_on_with_fewer_and_with_more(case: str, place: Place) -> None:
    spec = merged({"training": {"epochs": 4, "gradientAccumulation": 2, "evalSteps": 4, "saveSteps": 2}}, CASES[case])
    asked = merged(spec, processes(2))
    whole = done(place.run(job(**asked, output={"uri": "whole"})))
    assert max(whole.losses) > 14

    chain = [
        killed(place.run(job(**merged(spec, processes(count)), output={"uri": "broken"}), at=at_step(step)))
        for count, step in ((2, 4), (1, 8), (4, 12))
    ]
    chain.append(done(place.run(job(**merged(spec, processes(1)), output={"uri": "broken"}))))
    for before, after in zip(chain, chain[1:], strict=False):
        assert min(after.losses) > 1, after.text
        assert min(after.losses) <= max(before.losses) + 2, "it goes on from the newest checkpoint"
    for ended in chain:
        for step, loss in ended.losses.items():
            assert loss == pytest.approx(whole.losses[step], abs=CLOSE), (step, ended.text)
        for step, loss in ended.evaluations.items():
            assert loss == pytest.approx(whole.evaluations[step], abs=CLOSE)
    assert set().union(*(ended.losses for ended in chain)) == set(whole.losses)
    assert chain[-1].termination["metrics"]["tokens"] == whole.termination["metrics"]["tokens"]


def processes(count: int) -> dict[str, Any]:
    return {"parallelism": {"processesPerNode": count}}


def done(ended: Ended) -> Ended:
    assert ended.exit_code == 0, ended.text
    return ended


def killed(ended: Ended) -> Ended:
    assert ended.exit_code == -signal.SIGKILL, ended.text
    return ended


def at_step(step: int) -> Callable[[Line], int | None]:
    return lambda line: signal.SIGKILL if line.get("step", 0) >= step and line.get("stage") == "Training" else None
