"""The Job: what counts as a failure, what is told to others, and the one thing that changes."""

from __future__ import annotations

import json

import pytest

from alpaca_operator.api import DatasetJob, SFTJob
from alpaca_operator.api.contract import ANNOTATION_CONFIG, ANNOTATION_INPUTS, ENV_GROUP, ENV_NODE, ENV_RUN_ID
from alpaca_operator.api.status import ResolvedInput, Status
from alpaca_operator.plan import job as jobs
from alpaca_operator.settings import Settings
from tests.plan.build import ENDS, SETTINGS, first_match, sft_job


def made(job: SFTJob) -> dict:
    return jobs.one_job(job, {"metadata": {}, "spec": {}})


@pytest.mark.parametrize(("code", "disrupted", "of_job"), ENDS)
def test_what_an_exit_means_to_the_job_controller(code, disrupted, of_job):
    rules = made(sft_job())["spec"]["podFailurePolicy"]["rules"]
    matching = first_match(rules, code, disrupted=disrupted)
    assert ("Count" if matching is None else rules[matching]["action"]) == of_job


def test_several_pods_share_the_work_of_one_job():
    """Each is replaced for itself, and with the first the Job is done."""
    settings = Settings(images={"DatasetJob": "registry.example/train:1"})
    spec = {"sources": [{"uri": "pvc://data/web"}], "output": {"uri": "pvc://data/corpus"}, "parallelism": {"nodes": 3}}
    metadata = {"name": "web", "namespace": "poetry", "uid": "uid-web"}
    job = DatasetJob.model_validate({"kind": "DatasetJob", "metadata": metadata, "spec": spec})
    (child,) = jobs.plan_job(job, {}, settings).manifests
    asked = child["spec"]
    assert (asked["completions"], asked["parallelism"], asked["completionMode"]) == (3, 3, "Indexed")
    assert asked["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    assert (asked["backoffLimit"], asked["podReplacementPolicy"]) == (3, "Failed")
    assert asked["podFailurePolicy"]["rules"] == jobs.failure_rules()
    variables = {one["name"]: one for one in asked["template"]["spec"]["containers"][0]["env"]}
    paths = {name: variables[name]["valueFrom"]["fieldRef"]["fieldPath"] for name in (ENV_RUN_ID, ENV_NODE, ENV_GROUP)}
    assert paths == {
        ENV_RUN_ID: "metadata.uid",
        ENV_NODE: "metadata.labels['batch.kubernetes.io/job-completion-index']",
        ENV_GROUP: "metadata.labels['batch.kubernetes.io/controller-uid']",
    }


def test_what_kueue_reads_is_copied_and_nothing_else():
    metadata = {
        "labels": {"kueue.x-k8s.io/queue-name": "gpus", "team": "poetry", "notkueue.x-k8s.io.example/a": "b"},
        "annotations": {"provreq.kueue.x-k8s.io/a": "b", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
    }
    child = made(sft_job(metadata=metadata))
    assert child["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert not {"team", "notkueue.x-k8s.io.example/a"} & child["metadata"]["labels"].keys()
    assert child["metadata"]["annotations"] == {"provreq.kueue.x-k8s.io/a": "b"}


def test_the_workload_reads_uris_where_the_resource_names_jobs():
    job = sft_job(model={"from": {"kind": "PretrainJob", "name": "base"}}, output={"uri": "pvc://results/poet"})
    found = ResolvedInput(uri="pvc://models/base", digest="sha256:b", producer_uid="uid-base")
    (child,) = jobs.plan_job(job, {"model": found}, SETTINGS).manifests
    pod = child["spec"]["template"]
    read = json.loads(pod["metadata"]["annotations"][ANNOTATION_CONFIG])
    assert read["spec"]["model"] == {"uri": "pvc://models/base"}
    claims = [
        each["persistentVolumeClaim"]["claimName"] for each in pod["spec"]["volumes"] if "persistentVolumeClaim" in each
    ]
    assert claims == ["models", "data", "results"]
    noted = '{"model":{"uri":"pvc://models/base","digest":"sha256:b","producerUID":"uid-base"}}'
    assert child["metadata"]["annotations"] == read["metadata"]["annotations"] == {ANNOTATION_INPUTS: noted}


def test_the_longest_name_leaves_room_for_its_pods():
    job = sft_job(metadata={"name": "a" * SFTJob.name_limit})
    assert len(made(job)["metadata"]["name"]) + len("-abcde") <= 63


@pytest.mark.parametrize(
    ("wanted", "live", "patch"),
    [
        pytest.param({}, {}, None, id="no deadline"),
        pytest.param({"activeDeadlineSeconds": 60}, {"activeDeadlineSeconds": 60}, None, id="the same deadline"),
        pytest.param({"activeDeadlineSeconds": 90}, {"activeDeadlineSeconds": 60}, 90, id="a longer deadline"),
        pytest.param({}, {"activeDeadlineSeconds": 60}, "removed", id="a deadline that was removed"),
        pytest.param(
            {"backoffLimit": 3}, {"backoffLimit": 0, "suspend": True}, None, id="what others changed is theirs"
        ),
    ],
)
def test_only_the_deadline_follows_the_spec(wanted, live, patch):
    expected = None if patch is None else {"spec": {"activeDeadlineSeconds": None if patch == "removed" else patch}}
    assert jobs.drift({"spec": wanted}, {"spec": live}) == expected


@pytest.mark.parametrize(
    ("suspended", "patch"),
    [
        pytest.param(True, {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "fast"}}}, id="while it waits"),
        pytest.param(False, None, id="not once it runs: Kueue refuses it"),
    ],
)
def test_another_queue_reaches_a_job_that_waits(suspended, patch):
    before, after = (
        made(sft_job(metadata={"labels": {"kueue.x-k8s.io/queue-name": queue}})) for queue in ("slow", "fast")
    )
    live = {**before, "spec": {**before["spec"], "suspend": suspended}}
    assert jobs.drift(after, live) == patch
    assert jobs.drift(before, live) is None


def held(**status) -> dict:
    """The Job of a resource that is resumed after this had become of its earlier ones."""
    job = sft_job(activeDeadlineSeconds=3600, failurePolicy={"maxRestarts": 3})
    return made(job.model_copy(update={"status": Status.model_validate(status)}))["spec"]


def test_a_job_that_is_resumed_has_what_is_left_of_its_restarts():
    assert held()["backoffLimit"] == 3
    assert held(restarts={"user": 2, "infra": 5, "total": 7})["backoffLimit"] == 1
    assert held(restarts={"user": 3})["backoffLimit"] == 0


def test_a_job_that_is_resumed_has_what_is_left_of_its_time():
    assert held()["activeDeadlineSeconds"] == 3600
    assert held(activeTime={"seconds": 600, "child": "uid-a"})["activeDeadlineSeconds"] == 3000
    assert held(activeTime={"seconds": 9000, "child": "uid-a"})["activeDeadlineSeconds"] == 1
