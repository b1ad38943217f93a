"""A chain that ends in a small model and in measurements, on a real node: gates that are kept, gates that are not, and who is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.bed import cache
from tests.cluster.bed.cache import CHECKOUT
from tests.cluster.bed.cluster import Manifest, until
from tests.cluster.team import Team, condition, over, ready, rows_of
from tests.workloads import library, literature

pytestmark = pytest.mark.cluster

LAYERS = 8
"""Enough that a quantization takes seconds, and can be caught in the middle."""
POEMS = CHECKOUT / "examples" / "quickstart" / "poems.jsonl"


def shelf() -> Path:
    """A small Llama and a novel; made once and kept in the cache."""

    def make(draft: Path) -> None:
        library.write_base(draft / "tiny", num_hidden_layers=LAYERS)
        library.write_novels(draft / "literature", 1, lines=100)
        for path in draft.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)

    sources = (Path(module.__file__).read_bytes() for module in (library, literature))
    return cache.made("models/layered", cache.digest(str(LAYERS), *sources), make)


def furnish(team: Team) -> None:
    """The namespace gets what the chain starts from."""
    shutil.rmtree(team.models / "tiny")
    shutil.copytree(shelf() / "tiny", team.models / "tiny")
    shutil.copytree(shelf() / "literature", team.data / "literature")
    shutil.copy(POEMS, team.data)


def job(kind: str, name: str, **spec: Any) -> Manifest:
    polite = {"env": [{"name": "OMP_NUM_THREADS", "value": "1"}]}
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"output": {"uri": f"pvc://models/{name}"}, "pod": polite} | spec,
    }


def made_by(kind: str, name: str) -> dict[str, Any]:
    return {"from": {"kind": kind, "name": name}}


ROWS = [{"uri": "pvc://data/poems.jsonl"}]
LOOP = {"maxSteps": 4, "learningRate": 1e-2, "gradientAccumulation": 1, "reportTo": []}


def quantized(name: str, **spec: Any) -> Manifest:
    return job(
        "QuantizeJob",
        name,
        **over(
            {
                "model": made_by("MergeJob", "merged"),
                "groupSize": 32,
                "calibration": {"train": ROWS, "samples": 16, "sequenceLength": 128},
                "evaluation": {"samples": 8, "answers": 4, "maxNewTokens": 4},
                "template": "HumanAssistant",
            },
            spec,
        ),
    )


def report(name: str, *models: tuple[str, dict[str, Any]], **spec: Any) -> Manifest:
    return job(
        "EvaluationJob",
        name,
        models=[{"name": each, "model": model, "template": "HumanAssistant"} for each, model in models],
        dataset={"validation": ROWS, "samples": 8, "sequenceLength": 128},
        prompts={"preset": "zh", "limit": 8},
        generation={"maxNewTokens": 4},
        **spec,
    )


SMALL = ("4-bit", made_by("QuantizeJob", "small"))
STAGES = (
    job(
        "PretrainJob",
        "base",
        model={"uri": "pvc://models/tiny"},
        dataset={"train": [{"uri": "pvc://data/literature"}], "validationSplit": 0},
        trainable="Full",
        training=LOOP | {"blockSize": 64},
    ),
    job(
        "SFTJob",
        "tuned",
        model=made_by("PretrainJob", "base"),
        dataset={"train": ROWS, "validationSplit": 0},
        template="HumanAssistant",
        training=LOOP | {"sequenceLength": 128},
    ),
    job("MergeJob", "merged", model=made_by("PretrainJob", "base"), adapters=[made_by("SFTJob", "tuned")]),
    quantized("small", maxPerplexityIncrease=100),
    report(
        "report",
        ("base", made_by("PretrainJob", "base")),
        ("merged", made_by("MergeJob", "merged")),
        SMALL,
        gates=[
            {"metric": "perplexity", "model": "4-bit", "max": 1e9},
            {"metric": "stopRate", "model": "4-bit", "min": 0},
        ],
    ),
)
STRICT = quantized("strict", minStopRate=1, evaluation={"maxNewTokens": 1})
"""Nobody ends an answer with the first token."""
UNMET = report("unmet", SMALL, gates=[{"metric": "perplexity", "model": "4-bit", "max": 1.5}])
READER = report("reader", ("strict", made_by("QuantizeJob", "strict")))
CHAT: Manifest = {
    "apiVersion": "literary-alpaca.io/v1alpha1",
    "kind": "ChatDeployment",
    "metadata": {"name": "poet"},
    "spec": {"model": made_by("QuantizeJob", "small"), "gates": [made_by("EvaluationJob", "unmet")]},
}


def artifact(team: Team, name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((team.models / name / "artifact.json").read_text(encoding="utf-8"))
    return read


def kill_between_layers(team: Team, name: str) -> int:
    """Kills the pod of a quantization once a layer is done, as the loss of its node would; the layers that were done."""

    def done() -> int:
        lines = [line for line in team.lines(team.pod(name)) if line.get("stage") == "Quantizing"]
        return max((line.get("step") or 0 for line in lines), default=0)

    layers = until(done, f"a layer of {name}", 600, every=0.2)
    team.bed.evict(team.pod(name), team.namespace, grace_seconds=0)
    return layers


@pytest.mark.timeout(2400)
def test_a_chain_to_a_small_model_and_its_report_and_what_becomes_of_broken_gates(mine: Team) -> None:
    furnish(mine)
    for manifest in reversed([*STAGES, STRICT, UNMET, READER, CHAT]):
        mine.apply(manifest)

    # A pod killed in the middle of the work costs a restart, and nothing else.
    *_, small, compared = STAGES
    mine.wait(small, "Running")
    killed_at = kill_between_layers(mine, "small")
    assert 0 < killed_at < LAYERS
    mine.wait(compared, "Succeeded")
    jobs = {stage["metadata"]["name"]: mine.found(stage) for stage in STAGES}
    assert {name: ready(one)["reason"] for name, one in jobs.items()} == dict.fromkeys(jobs, "Succeeded")
    assert jobs["small"]["status"]["restarts"] == {"user": 0, "infra": 1, "total": 1}
    assert jobs["small"]["status"]["output"]["kind"] == "GPTQModel"
    assert artifact(mine, "small")["inputs"]["model"]["digest"] == artifact(mine, "merged")["digest"]
    assert not (mine.models / "small.checkpoints").exists()

    # Inputs in a list of models are pinned by their place.
    inputs = jobs["report"]["status"]["resolvedInputs"]
    assert {field: inputs[field]["digest"] for field in inputs if field.startswith("models[")} == {
        f"models[{place}].model": artifact(mine, name)["digest"]
        for place, name in enumerate(("base", "merged", "small"))
    }
    assert inputs["models[2].model"]["producerUID"] == jobs["small"]["metadata"]["uid"]
    metrics = jobs["report"]["status"]["metrics"]
    assert {f"{name}/{metric}" for name in ("base", "merged", "4-bit") for metric in ("perplexity", "stopRate")} <= set(
        metrics
    )
    shown = rows_of(mine.kubectl("get", "quantizejobs", "small", "-o", "wide"))[0]
    assert float(shown["PERPLEXITY"]) == jobs["small"]["status"]["metrics"]["perplexity"]
    assert float(shown["BEFORE"]) == jobs["small"]["status"]["metrics"]["perplexityBefore"]
    assert "4-bit/perplexity" in rows_of(mine.kubectl("get", "evaluationjobs", "report", "-o", "wide"))[0]["METRICS"]

    # A broken gate ends the job at once and for good, with the figure and the bound; nothing is published.
    broken = {"minStopRate 1 asks for 100.0%": STRICT, "above max 1.5": UNMET}
    for told, manifest in broken.items():
        one, name = mine.wait(manifest, "GateFailed"), manifest["metadata"]["name"]
        assert told in ready(one)["message"]
        assert one["status"]["failure"]["class"] == "UserError"
        assert (one["status"]["failure"]["reason"], one["status"]["failure"]["exitCode"]) == ("GateFailed", 64)
        assert one["status"]["metrics"], "all that was measured is told too"
        assert condition(one, "InputsReady")["status"] == "True"
        assert len(mine.pods(name)) == 1
        assert not (mine.models / name).exists()
        assert (mine.models / f"{name}.rejected" / "report.json").exists()
        assert [event for event in mine.events(name, one["kind"]) if event[0] == "GateFailed"] == [
            ("GateFailed", ready(one)["message"])
        ]

    # Whoever depends on it waits, and says which gate it was.
    for manifest, field, (told, producer) in zip(
        (READER, CHAT), ("models[0].model", "gates[0]"), broken.items(), strict=True
    ):
        waiting = mine.wait(manifest, "ProducerFailed")
        said = condition(waiting, "InputsReady")
        assert (said["status"], said["reason"]) == ("False", "ProducerFailed")
        assert condition(waiting, "Failed").get("status") != "True"
        who = f"{producer['kind']} {producer['metadata']['name']}"
        assert said["message"].startswith(f"{field}.from names {who}, which failed (GateFailed: ")
        assert told in said["message"]
        assert mine.pods(manifest["metadata"]["name"]) == []

    # Deleted and applied anew, what lies there is of the same spec and inputs.
    mine.kubectl("delete", "quantizejob", "small")
    mine.apply(small)
    again = mine.wait(small, "Reused")
    assert again["status"]["output"]["digest"] == jobs["small"]["status"]["output"]["digest"]
    assert again["status"]["output"]["reused"] is True
