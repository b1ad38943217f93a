"""A chain on a real node: applied in reverse, its operator killed at random, its producers failing, deleted and replaced."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections import Counter
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from alpaca_operator.api.contract import LABEL_NAME
from tests.cluster.bed import cache
from tests.cluster.bed.cache import CHECKOUT
from tests.cluster.bed.cluster import Manifest, until
from tests.cluster.installation import Installation
from tests.cluster.team import Team, condition, ended, over, ready
from tests.workloads import library, literature

pytestmark = pytest.mark.cluster

TWIN = CHECKOUT / "manifests" / "samples" / "models" / "literary-alpaca2-tiny.yaml"
POEMS = CHECKOUT / "examples" / "quickstart" / "poems.jsonl"
POLITE = {"pod": {"env": [{"name": "OMP_NUM_THREADS", "value": "1"}]}}
"""On a machine of two cores that carries more than this."""
CHAIN = 1500.0


def shelf() -> Path:
    """A small Llama whose tokenizer a vocabulary can be merged into, and novels; made once and kept in the cache."""

    def make(draft: Path) -> None:
        library.write_base(draft / "tiny")
        library.write_novels(draft / "literature", 4, lines=150)
        for path in draft.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)

    sources = (Path(module.__file__).read_bytes() for module in (library, literature))
    return cache.made("models/shelf", cache.digest(*sources), make)


def furnish(team: Team) -> None:
    """The namespace gets what the twin wants on its volumes."""
    shutil.rmtree(team.models / "tiny")
    shutil.copytree(shelf() / "tiny", team.models / "tiny")
    shutil.copytree(shelf() / "literature", team.data / "literature")
    shutil.copy(POEMS, team.data)


def step(team: Team, kind: str, name: str) -> Manifest:
    """The job; while the API server is away, it is waited for."""
    return until(lambda: team.bed.get(kind, name, "-n", team.namespace), f"{kind} {name}", 120)


def wait(team: Team, kind: str, name: str, *reasons: str, seconds: float = 300) -> Manifest:
    deadline = time.monotonic() + seconds
    while ready(job := step(team, kind, name)).get("reason") not in reasons:
        told = json.dumps(job.get("status"), indent=1)
        assert time.monotonic() < deadline, f"{name} is not {' or '.join(reasons)}: {told}"
        assert not ended(job), f"{name} ended before it was {' or '.join(reasons)}: {told}"
        time.sleep(0.3)
    return job


def artifact(team: Team, name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((team.models / name / "artifact.json").read_text(encoding="utf-8"))
    return read


@pytest.mark.timeout(2400)
def test_the_tiny_twin_applied_in_reverse_runs_through_while_operators_die(
    mine: Team, operator: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("ALPACA_TEST_SEED") or time.time_ns() % 10**6)
    with capsys.disabled():
        print(f"\nALPACA_TEST_SEED={seed}")
    chance = random.Random(seed)
    furnish(mine)
    chain = [over(document, {"spec": POLITE}) for document in YAML(typ="safe").load_all(TWIN)]
    steps = [(document["kind"], document["metadata"]["name"]) for document in chain]
    for document in reversed(chain):
        mine.apply(document)
    for kind, name in steps[1:]:
        assert ready(wait(mine, kind, name, "NotReady"))["message"].startswith("waits for ")

    deadline = time.monotonic() + CHAIN
    kills = 0
    while not ended(step(mine, *steps[-1])):
        assert time.monotonic() < deadline, mine.kubectl("get", "alpaca", "-o", "wide")
        stuck = [name for kind, name in steps if condition(step(mine, kind, name), "Stalled").get("status") == "True"]
        assert stuck == [], mine.kubectl("get", "alpaca", "-o", "wide")
        leader = operator.wait_leading()
        time.sleep(chance.uniform(1, 12))
        # The process seldom: the kubelet waits ever longer before it starts a container again.
        if chance.random() < 0.2:
            operator.kill_process(leader)
        else:
            operator.kill_pod(leader)
            until(lambda leader=leader: operator.leader() not in ("", leader), "another leader", 120)
        kills += 1
    operator.wait_available()

    found = {name: step(mine, kind, name) for kind, name in steps}
    assert {name: ready(job)["reason"] for name, job in found.items()} == {name: "Succeeded" for _, name in steps}
    assert kills > 2
    pods = mine.bed.items("pods", "-n", mine.namespace)
    assert Counter(pod["metadata"]["labels"][LABEL_NAME] for pod in pods) == Counter(name for _, name in steps), (
        "one each"
    )
    published = {name: artifact(mine, name) for _, name in steps}
    for name, job in found.items():
        assert job["status"]["output"]["digest"] == published[name]["digest"]
    assert made_from(found, published) == {
        "literary-alpaca2-tiny-vocabulary": {"dataset.train[0]": "literary-alpaca2-tiny-corpus"},
        "literary-alpaca2-tiny-stage-1": {
            "tokenizer": "literary-alpaca2-tiny-vocabulary",
            "dataset.train[0]": "literary-alpaca2-tiny-corpus",
            "dataset.validation[0]": "literary-alpaca2-tiny-corpus",
        },
        "literary-alpaca2-tiny-stage-2": {
            "model": "literary-alpaca2-tiny-stage-1",
            "dataset.train[0]": "literary-alpaca2-tiny-corpus",
            "dataset.validation[0]": "literary-alpaca2-tiny-corpus",
        },
        "literary-alpaca2-tiny-base": {
            "model": "literary-alpaca2-tiny-stage-1",
            "adapters[0]": "literary-alpaca2-tiny-stage-2",
        },
        "literary-alpaca2-tiny-adapter": {"model": "literary-alpaca2-tiny-base"},
        "literary-alpaca2-tiny": {
            "model": "literary-alpaca2-tiny-base",
            "adapters[0]": "literary-alpaca2-tiny-adapter",
        },
    }
    assert all(job["status"]["progress"]["percent"] == 100 for job in found.values())
    assert published["literary-alpaca2-tiny"]["metrics"]["mergeLogitDifference"] < 1e-4
    with capsys.disabled():
        print(
            f"{kills} operators killed; seconds from a step's end to the next one's Job: {delays(mine, steps, found)}"
        )


def made_from(found: dict[str, Manifest], published: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Which step each input came from, where status, producer and artifact agree on it."""
    makers = {job["metadata"]["uid"]: name for name, job in found.items()}
    told: dict[str, dict[str, str]] = {}
    for name, job in found.items():
        for field, given in job["status"]["resolvedInputs"].items():
            if maker := makers.get(given.get("producerUID")):
                assert given["digest"] == published[maker]["digest"] == published[name]["inputs"][field]["digest"]
                assert given["uri"] == f"pvc://models/{maker}"
                told.setdefault(name, {})[field] = maker
    return told


def delays(team: Team, steps: list[tuple[str, str]], found: dict[str, Manifest]) -> list[float]:
    """In whole seconds, as the API server keeps them; a step whose operator was dead just then waits for the next one."""
    taken = []
    for (_, before), (kind, name) in pairwise(steps):
        child = team.bed.get("job", f"{name}-{kind.removesuffix('Job').lower()}", "-n", team.namespace)
        made = datetime.fromisoformat(child["metadata"]["creationTimestamp"])
        complete = datetime.fromisoformat(condition(found[before], "Complete")["lastTransitionTime"])
        taken.append((made - complete).total_seconds())
    return taken


def model_job(name: str, **spec: Any) -> Manifest:
    """A fine-tuning of a few steps that publishes a whole model."""
    return over(
        {
            "apiVersion": "literary-alpaca.io/v1alpha1",
            "kind": "SFTJob",
            "metadata": {"name": name},
            "spec": {
                "model": {"uri": "pvc://models/tiny"},
                "dataset": {"train": [{"uri": "pvc://data/rows.json"}], "validationSplit": 0},
                "template": "HumanAssistant",
                "merge": True,
                "training": {
                    "maxSteps": 3,
                    "learningRate": 0.01,
                    "sequenceLength": 128,
                    "gradientAccumulation": 1,
                    "saveSteps": 20,
                    "reportTo": [],
                },
                "output": {"uri": f"pvc://models/{name}"},
                **POLITE,
            },
        },
        {"spec": spec},
    )


def reads(name: str, **spec: Any) -> dict[str, Any]:
    return {"model": {"uri": None, "from": {"kind": "SFTJob", "name": name}}, **spec}


@pytest.mark.timeout(1800)
def test_a_producer_that_fails_goes_and_comes_again(mine: Team) -> None:
    (mine.data / "bad.jsonl").write_text('{"instruction": "问", "output": "答"}\n{"instruction": \n', encoding="utf-8")
    mine.apply(
        model_job("reader", **reads("base")),
        model_job("base", dataset={"train": [{"uri": "pvc://data/bad.jsonl"}]}),
    )
    reader = wait(mine, "sftjob", "reader", "ProducerFailed")
    assert ready(reader)["message"].startswith("model.from names SFTJob base, which failed (InvalidData: ")
    assert condition(reader, "InputsReady")["status"] == "False"
    assert mine.pods("reader") == []

    mine.kubectl("delete", "sftjob", "base")
    wait(mine, "sftjob", "reader", "NotFound")
    mine.apply(model_job("base"))
    reader = wait(mine, "sftjob", "reader", "Succeeded", seconds=600)
    assert reader["status"]["resolvedInputs"]["model"]["digest"] == artifact(mine, "base")["digest"]
    assert len(mine.pods("reader")) == 1


@pytest.mark.timeout(1800)
def test_a_producer_replaced_under_its_feet_changes_nothing_for_a_job_that_runs(mine: Team) -> None:
    mine.apply(model_job("base"), model_job("reader", **reads("base", training={"maxSteps": 400})))
    mine.at_step("reader", 21)
    pinned = mine.job("reader")["status"]["resolvedInputs"]["model"]
    first = artifact(mine, "base")["digest"]
    assert (pinned["uri"], pinned["digest"]) == ("pvc://models/base", first)

    mine.kubectl("delete", "sftjob", "base")
    mine.apply(model_job("base", training={"learningRate": 0.02}, output={"uri": "pvc://models/other"}))
    mine.bed.evict(mine.pod("reader"), mine.namespace)
    reader = wait(mine, "sftjob", "reader", "Succeeded", seconds=900)
    wait(mine, "sftjob", "base", "Succeeded", seconds=600)
    assert artifact(mine, "other")["digest"] != first
    assert reader["status"]["resolvedInputs"]["model"] == pinned
    assert artifact(mine, "reader")["inputs"]["model"]["digest"] == first
    assert reader["status"]["restarts"]["infra"] == 1
