"""A run goes on with another number of processes as if nothing had happened: the same rows in the same steps, losses equal but for rounding."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.workloads import library
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
    "an adapter under ZeRO-2": {
        "lora": {"dropout": 0},
        "deepspeed": {"preset": "Zero2"},
        "dataset": {"validationSplit": 0.15},
    },
    "an adapter with saved embeddings under ZeRO-3": {
        "lora": {"dropout": 0, "modulesToSave": ["embed_tokens", "lm_head"]},
        "deepspeed": {"preset": "Zero3"},
        "dataset": {"validationSplit": 0.15},
    },
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.drill] if case == "an adapter under ZeRO-2" else []) for case in CASES],
)
def test_it_goes_on_with_fewer_and_with_more(case: str, place: Place) -> None:
    spec = merged({"training": {"epochs": 4, "gradientAccumulation": 2, "evalSteps": 4, "saveSteps": 2}}, CASES[case])
    asked = merged(spec, processes(2))
    whole = done(place.run(job(**asked, output={"uri": "whole"})))
    assert max(whole.losses) > 14

    chain = [
        killed(place.run(job(**merged(spec, processes(count)), output={"uri": "broken"}), at=at_step(step)))
        for count, step in ((2, 4), (1, 8))
    ]
    chain.append(done(place.run(job(**merged(spec, processes(4)), output={"uri": "broken"}))))
    for before, after in pairwise(chain):
        assert min(after.losses) > 1, after.text
        assert min(after.losses) <= max(before.losses) + 2, "it goes on from the newest checkpoint"
    for ended in chain:
        for step, loss in ended.losses.items():
            assert loss == pytest.approx(whole.losses[step], abs=CLOSE), (step, ended.text)
        for step, loss in ended.evaluations.items():
            assert loss == pytest.approx(whole.evaluations[step], abs=CLOSE)
    assert set().union(*(ended.losses for ended in chain)) == set(whole.losses)
    assert chain[-1].termination["metrics"]["tokens"] == whole.termination["metrics"]["tokens"]


def test_a_streamed_corpus_goes_on_where_it_was(study: Place) -> None:
    spec = {"dataset": {"streaming": True}, "training": {"maxSteps": 9, "saveSteps": 2, "gradientAccumulation": 2}}
    whole = done(study.run(library.job(**merged(spec, processes(2)), output={"uri": "whole"})))
    for count, step in ((2, 3), (4, 6)):
        killed(study.run(library.job(**merged(spec, processes(count)), output={"uri": "broken"}), at=at_step(step)))
    ended = done(study.run(library.job(**merged(spec, processes(1)), output={"uri": "broken"})))
    assert min(ended.losses) > 4
    for step, loss in ended.losses.items():
        assert loss == pytest.approx(whole.losses[step], abs=CLOSE)
    assert ended.metrics["tokens"] == whole.metrics["tokens"]


def test_one_goes_on_in_the_steps_of_two_and_the_result_is_both_jobs_own(place: Place) -> None:
    spec = {"training": {"epochs": 2, "saveSteps": 2}, "lora": {"dropout": 0}}
    two, one = job(**spec, **processes(2)), job(**spec, **processes(1))
    stopped = place.run(two, at=lambda line: signal.SIGTERM if line.get("step", 0) >= 3 else None)
    assert stopped.exit_code == 75, stopped.text
    ended = done(place.run(one))
    assert min(ended.losses) == max(stopped.losses) + 1
    assert (
        "1 process in place of 2: a step stays as it is, with 4 passes of each instead of 2; its losses are the same but for the rounding of "
        "sums, and for dropout, which each process draws for itself" in ended.messages
    )
    artifact = json.loads((place.folder / "out" / "artifact.json").read_text())
    assert artifact["processes"] == 2
    assert [(run["processes"], run["firstStep"], run["lastStep"]) for run in artifact["attempts"]] == [
        (2, 0, max(stopped.losses)),
        (1, max(stopped.losses), max(ended.losses)),
    ]
    for again in (two, one):
        assert done(place.run(again)).termination["reason"] == "Reused"
    three = place.run(job(**spec, **processes(3)))
    assert (three.exit_code, three.termination["reason"]) == (64, "OutputExists"), three.text


def test_those_who_cannot_share_a_step_are_refused_before_anything_is_loaded(place: Place) -> None:
    spec = {"training": {"epochs": 2, "saveSteps": 1}}
    killed(place.run(job(**spec, **processes(2)), at=at_step(3)))
    refused = place.run(job(**spec, **processes(3)))
    assert refused.exit_code == 64, refused.text
    assert "3 processes cannot share a step of 4 passes" in refused.termination["message"]
    assert "1, 2, 4 can" in refused.termination["message"]


def test_an_optimizer_whose_state_nobody_can_cut_anew_is_refused(place: Place) -> None:
    spec = {"training": {"epochs": 2, "saveSteps": 1, "optimizer": "adafactor"}, "deepspeed": {"preset": "Zero2"}}
    killed(place.run(job(**spec, **processes(2)), at=at_step(3)))
    refused = place.run(job(**spec, **processes(1)))
    assert refused.exit_code == 64, refused.text
    assert "DeepSpeed cuts only the state of AdamW anew" in refused.termination["message"]
    assert refused.losses == {}


def test_dropout_is_drawn_anew_and_the_same_each_time(place: Place) -> None:
    spec = {"training": {"epochs": 2, "saveSteps": 2}, "lora": {"dropout": 0.3}}
    killed(place.run(job(**spec, **processes(2)), at=at_step(3)))
    shutil.copytree(place.folder / "out.checkpoints", place.folder / "other.checkpoints")
    first = done(place.run(job(**spec, **processes(1))))
    second = done(place.run(job(**spec, **processes(1), output={"uri": "other"})))
    assert min(first.losses) > 1
    assert first.losses == second.losses


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
