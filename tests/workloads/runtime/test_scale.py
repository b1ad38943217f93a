"""How many train, how many were asked for, and whose step it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alpaca_operator.api import contract
from alpaca_operator.api.sft import SFTJob
from workloads.errors import SpecError
from workloads.runtime import scale
from workloads.runtime.scale import Scale
from workloads.storage import hashing
from workloads.storage.artifact import spec_digest
from workloads.storage.checkpoints import MARKER, Record
from workloads.system.environment import Environment

FEWER = {"nodes": 4, "minNodes": 2, "processesPerNode": 2}
COORDINATED = {"ALPACA_COORDINATOR": "node-0"}
INPUTS: Any = {name: SimpleNamespace(digest="sha256:d", uri="x") for name in ("model", "dataset.train[0]")}


def job(parallelism: dict[str, Any], accumulation: int = 2, **spec: Any) -> SFTJob:
    required = {"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d"}]}, "output": {"uri": "o"}}
    training = {"gradientAccumulation": accumulation}
    return SFTJob.model_validate(
        {"metadata": {"name": "j"}, "spec": required | {"parallelism": parallelism, "training": training} | spec}
    )


class Beside:
    """An output's place, with what runs left there."""

    def __init__(self, folder: Path) -> None:
        self.checkpoints: Any = folder
        self.published: contract.Artifact | None = None

    def artifact(self) -> contract.Artifact | None:
        return self.published

    def checkpoint(self, of: SFTJob, processes: int, step: int, rows: str = "") -> None:
        training = spec_digest(of, INPUTS, processes, published=False)
        made_from = hashing.of_json({"spec": training, "rows": rows}) if rows else training
        folder = self.checkpoints / "run-a" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        record = Record(
            step=step, run_id="a", spec_digest=made_from, training_digest=training, processes=processes, files=[]
        )
        (folder / MARKER).write_text(record.to_json())

    def publish(self, of: SFTJob, asked: int, trained: list[int]) -> None:
        self.published = contract.Artifact(
            kind="LoRAAdapter",
            digest="sha256:x",
            spec_digest=spec_digest(of, INPUTS, asked),
            processes=asked,
            attempts=[
                contract.Attempt(run_id="a", started_at="", processes=count, first_step=0, last_step=1)
                for count in trained
            ],
        )


@pytest.fixture
def beside(tmp_path: Path) -> Any:
    return Beside(tmp_path)


def begun(of: SFTJob, beside: Any) -> Scale:
    return scale.as_begun(scale.of(of, Environment.read({})), of, INPUTS, beside)


@pytest.mark.parametrize(
    ("parallelism", "environ", "expected"),
    [
        pytest.param({}, {}, Scale(1, 1, 1), id="one process"),
        pytest.param({"processesPerNode": 3}, {}, Scale(1, 3, 3), id="on one machine"),
        pytest.param({"nodes": 2, "processesPerNode": 2}, COORDINATED, Scale(2, 2, 4), id="on two"),
        pytest.param(FEWER, COORDINATED, Scale(4, 2, 8), id="all nodes are there"),
        pytest.param(FEWER, COORDINATED | {"ALPACA_NODES": "3"}, Scale(3, 2, 8), id="three of four are there"),
        pytest.param({"nodes": 4, "minNodes": 1}, {"ALPACA_NODES": "1"}, Scale(1, 1, 4), id="one alone needs no coordinator"),
    ],
)  # fmt: skip
def test_what_is_asked_for_and_what_is_there(parallelism: Any, environ: Any, expected: Scale) -> None:
    assert scale.of(job(parallelism), Environment.read(environ)) == expected


@pytest.mark.parametrize(
    ("parallelism", "environ", "message"),
    [
        pytest.param(
            FEWER, {"ALPACA_NODES": "1"},
            "ALPACA_NODES is 1, and spec.parallelism asks for 2 to 4: set it to that, or parallelism.minNodes to the fewest nodes that may train",
            id="fewer than may train",
        ),
        pytest.param(
            {"nodes": 2}, {"ALPACA_NODES": "3"},
            "ALPACA_NODES is 3, and spec.parallelism asks for 2: set it to that, or parallelism.minNodes to the fewest nodes that may train",
            id="more than were asked for",
        ),
        pytest.param(
            FEWER, COORDINATED | {"ALPACA_NODES": "2", "ALPACA_NODE": "2"},
            "2 nodes are to train (spec.parallelism.nodes is 4), and this machine was not told which of them it is: set ALPACA_NODE (0 to 1), "
            "ALPACA_COORDINATOR (a name or address of node 0) and one ALPACA_RUN_ID on each, over a storage that all of them see, or nodes to 1",
            id="a third of two",
        ),
    ],
)  # fmt: skip
def test_nodes_that_do_not_fit_are_refused(parallelism: Any, environ: Any, message: str) -> None:
    with pytest.raises(SpecError) as refused:
        scale.of(job(parallelism), Environment.read(environ))
    assert str(refused.value) == message


def test_a_step_stays_as_it_is_however_many_share_it() -> None:
    assert [Scale(1, count, 4).accumulation(2) for count in (1, 2, 4, 8)] == [8, 4, 2, 1]


def test_the_step_is_that_of_those_who_began(beside: Any) -> None:
    asked = job({"processesPerNode": 4})
    beside.checkpoint(asked, 4, step=10, rows="sha256:rows")
    assert begun(job({"processesPerNode": 2}), beside) == Scale(1, 2, 4)
    assert begun(asked, beside) == Scale(1, 4, 4)


def test_a_checkpoint_of_other_settings_is_nobody_s_step(beside: Any) -> None:
    beside.checkpoint(job({"processesPerNode": 4}, accumulation=3), 4, step=10)
    assert begun(job({"processesPerNode": 2}), beside) == Scale(1, 2, 2)


def test_a_version_that_did_not_say_how_many_it_asked_for_is_not_guessed_at(beside: Any) -> None:
    asked = job({"processesPerNode": 4})
    beside.checkpoint(asked, 4, step=10)
    marker = beside.checkpoints / "run-a" / "checkpoint-10" / MARKER
    older = Record.model_validate_json(marker.read_text()).model_copy(update={"processes": 0, "training_digest": ""})
    marker.write_text(older.to_json())
    assert begun(job({"processesPerNode": 2}), beside) == Scale(1, 2, 2)


def test_those_who_cannot_share_the_step_are_told_how_many_could(beside: Any) -> None:
    asked = job({"processesPerNode": 4})
    beside.checkpoint(asked, 4, step=10)
    with pytest.raises(SpecError) as refused:
        begun(job({"processesPerNode": 3}), beside)
    assert str(refused.value) == (
        "3 processes cannot share a step of 8 passes (training.gradientAccumulation 2 × the 4 processes that it was asked for): 1, 2, 4, 8 can "
        f"(parallelism.nodes × processesPerNode); to train with other steps, remove {beside.checkpoints} or name another output"
    )


@pytest.mark.parametrize(
    ("trained", "asked"),
    [
        pytest.param([4, 2], 4, id="a result that two have ended is theirs, too"),
        pytest.param([4], 2, id="one that others made alone is of other steps"),
    ],
)
def test_a_result_is_of_the_steps_that_made_it(trained: list[int], asked: int, beside: Any) -> None:
    beside.publish(job({"processesPerNode": 4}), 4, trained)
    assert begun(job({"processesPerNode": 2}), beside).asked == asked


@pytest.mark.parametrize(
    ("parallelism", "accumulation", "numbers"),
    [
        pytest.param({"nodes": 4, "minNodes": 2}, 2, [4, 2], id="three do not divide eight"),
        pytest.param({"nodes": 4, "minNodes": 2}, 3, [4, 3, 2], id="three divide twelve"),
        pytest.param({"nodes": 4}, 3, [4], id="all or none"),
    ],
)
def test_the_operator_learns_which_numbers_of_nodes_fit(
    parallelism: dict[str, int], accumulation: int, numbers: list[int]
) -> None:
    assert job(parallelism).spec.parallelism.numbers_of_nodes(accumulation) == numbers
