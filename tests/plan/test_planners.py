"""Every kind of job becomes one Job whose pod runs the kind's workload on what it was given. How the Jobs look: tests/golden."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import workloads
from alpaca_operator.api import KINDS, Resource
from alpaca_operator.api.contract import ANNOTATION_CONFIG
from alpaca_operator.api.resource import Job
from alpaca_operator.api.status import ResolvedInput
from alpaca_operator.plan import PLANNERS, Manifest, Plan
from alpaca_operator.settings import Settings
from tests.api.minimal import MINIMAL

JOBS = [name for name, kind in KINDS.items() if issubclass(kind, Job)]
SETTINGS = Settings(images={kind: f"registry.example/{kind.lower()}:1" for kind in KINDS})


def made(kind: str, **spec: object) -> Resource:
    return KINDS[kind].model_validate(
        {
            "kind": kind,
            "metadata": {"name": "poet", "namespace": "poetry", "uid": "uid-poet"},
            "spec": MINIMAL[kind] | spec,
        }
    )


def child(job: Resource, **inputs: ResolvedInput) -> Manifest:
    plan = PLANNERS[job.kind](job, inputs, SETTINGS)
    assert plan.refusal is None
    (only,) = plan.manifests
    return only


def test_every_kind_has_a_planner():
    assert set(PLANNERS) == set(KINDS)


@pytest.mark.parametrize("kind", JOBS)
class TestEveryKind:
    def test_its_pod_runs_its_workload_by_its_image(self, kind):
        noun = KINDS[kind].workload
        job = child(made(kind))
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert job["metadata"]["name"] == f"poet-{noun}"
        assert container["image"] == f"registry.example/{kind.lower()}:1"
        assert container["command"] == ["python", "-m", f"workloads.{noun}", "/etc/alpaca/job.json"]
        assert Path(workloads.__path__[0], f"{noun}.py").exists()

    def test_what_the_pod_reads_is_the_resource(self, kind):
        job = made(kind)
        read = json.loads(child(job)["spec"]["template"]["metadata"]["annotations"][ANNOTATION_CONFIG])
        assert KINDS[kind].model_validate(read).spec == job.spec

    def test_an_output_that_would_be_lost_is_refused(self, kind):
        plan = PLANNERS[kind](made(kind, output={"uri": "./poet"}), {}, SETTINGS)
        assert plan.manifests == ()
        assert plan.refusal is not None


def test_one_job_with_one_pod():
    plan = PLANNERS["SFTJob"](made("SFTJob"), {}, SETTINGS)
    assert [(child["kind"], child["metadata"]["name"]) for child in plan.manifests] == [("Job", "poet-sft")]
    assert plan.refusal is None


def test_a_job_that_cannot_run_has_no_children():
    plan = PLANNERS["SFTJob"](made("SFTJob", output={"uri": "./poet"}), {}, SETTINGS)
    assert plan == Plan(manifests=(), refusal=plan.refusal)
    assert plan.refusal is not None


def test_an_adapter_in_a_list_is_found_by_its_place():
    adapters = [{"uri": "pvc://models/a"}, {"from": {"kind": "SFTJob", "name": "b"}, "weight": 0.5}]
    found = ResolvedInput(uri="pvc://others/b", digest="sha256:b", producer_uid="uid-b")
    pod = child(made("MergeJob", adapters=adapters), **{"adapters[1]": found})["spec"]["template"]
    read = json.loads(pod["metadata"]["annotations"][ANNOTATION_CONFIG])
    assert read["spec"]["adapters"] == [
        {"uri": "pvc://models/a"},
        {"uri": "pvc://others/b", "weight": 0.5},
    ]
    claims = [
        each["persistentVolumeClaim"]["claimName"] for each in pod["spec"]["volumes"] if "persistentVolumeClaim" in each
    ]
    assert claims == ["models", "others"]


def test_a_model_and_an_adapter_in_lists_of_lists_are_found_by_their_places():
    models = [
        {"name": "base", "model": {"uri": "pvc://models/a"}},
        {
            "name": "tuned",
            "model": {"from": {"kind": "QuantizeJob", "name": "small"}},
            "adapters": [{"uri": "pvc://models/b"}, {"from": {"kind": "SFTJob", "name": "c"}}],
        },
    ]
    found = {
        "models[1].model": ResolvedInput(uri="pvc://small/a", digest="sha256:a", producer_uid="uid-a"),
        "models[1].adapters[1]": ResolvedInput(uri="pvc://others/c", digest="sha256:c", producer_uid="uid-c"),
    }
    job = child(made("EvaluationJob", models=models), **found)
    read = json.loads(job["spec"]["template"]["metadata"]["annotations"][ANNOTATION_CONFIG])
    assert [each["model"] for each in read["spec"]["models"]] == [{"uri": "pvc://models/a"}, {"uri": "pvc://small/a"}]
    assert read["spec"]["models"][1]["adapters"] == [{"uri": "pvc://models/b"}, {"uri": "pvc://others/c"}]
    mounts = job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    claimed = {mount["mountPath"]: mount["readOnly"] for mount in mounts if mount["mountPath"].startswith("/mnt/")}
    assert claimed == {"/mnt/models": True, "/mnt/small": True, "/mnt/others": True, "/mnt/reports": False}


def test_every_api_that_a_job_asks_has_its_key_in_a_variable_of_its_own():
    key = {"url": "https://api.example/v1", "secretRef": {"name": "keys", "key": "large"}}
    job = made(
        "EvaluationJob",
        models=[
            {"name": "poet", "model": {"uri": "pvc://models/poet"}},
            {"name": "large", "endpoint": key},
            {"name": "open", "endpoint": {"url": "http://vllm.models.svc:8000/v1"}},
        ],
        judge={"endpoint": {"url": "https://judge.example/v1", "secretRef": {"name": "judge"}}, "against": "poet"},
    )
    (container,) = child(job)["spec"]["template"]["spec"]["containers"]
    found = {one["name"]: one["valueFrom"] for one in container["env"] if one["name"].endswith("_API_KEY")}
    assert found == {
        "ALPACA_MODELS_1_API_KEY": {"secretKeyRef": {"name": "keys", "key": "large"}},
        "ALPACA_JUDGE_API_KEY": {"secretKeyRef": {"name": "judge", "key": "apiKey"}},
    }
