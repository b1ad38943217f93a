"""The pod: what the workload finds in it, what may be set, and what is refused before it is made."""

from __future__ import annotations

import json

import pytest

from alpaca_operator.api import SFTJob
from alpaca_operator.api.contract import ANNOTATION_CONFIG
from alpaca_operator.api.status import Reason
from alpaca_operator.plan import pod
from alpaca_operator.settings import Settings
from tests.plan.build import SETTINGS, sft_job


def template(job: SFTJob) -> dict:
    return pod.template(job, SETTINGS)


def container(job: SFTJob) -> dict:
    return template(job)["spec"]["containers"][0]


def env(job: SFTJob) -> dict:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container(job)["env"]}


def test_the_workload_reads_the_job_that_was_applied():
    job = sft_job(training={"learningRate": 1e-5})
    told = json.loads(template(job)["metadata"]["annotations"][ANNOTATION_CONFIG])
    read = SFTJob.model_validate(told)
    assert read.spec == job.spec
    assert (read.metadata.name, read.metadata.namespace, read.metadata.uid) == ("poet", "poetry", "uid-poet")


def test_the_workload_reads_what_was_set_and_no_defaults_that_another_version_may_not_know():
    job = sft_job(training={"learningRate": 1e-5, "epochs": 3}, suspend=False)
    told = json.loads(template(job)["metadata"]["annotations"][ANNOTATION_CONFIG])
    assert told["spec"]["training"] == {"learningRate": 1e-5}
    assert not told["spec"].keys() & {"suspend", "failurePolicy", "lora", "method", "template"}


def test_what_the_pod_tells_the_workload():
    assert env(sft_job(cache={"claimName": "cache"})) == {
        "ALPACA_IN_POD": "1",
        "ALPACA_RUN_ID": {"fieldRef": {"fieldPath": "metadata.uid"}},
        "ALPACA_CACHE": "/mnt/cache/.literary-alpaca",
        "GPTQMODEL_TORCH_EXTENSIONS_DIR": "/mnt/cache/.literary-alpaca/kernels/gptqmodel",
        "TRITON_CACHE_DIR": "/mnt/cache/.literary-alpaca/kernels/triton",
        "HOME": "/tmp",
        "USER": "alpaca",
    }


def test_a_variable_of_the_user_takes_the_place_of_ours():
    names = [each["name"] for each in container(sft_job(pod={"env": [{"name": "HOME", "value": "/home"}]}))["env"]]
    assert names.count("HOME") == 1
    assert env(sft_job(pod={"env": [{"name": "HOME", "value": "/home"}]}))["HOME"] == "/home"


def test_credentials_of_all_sources_come_once_each():
    job = sft_job(
        model={"uri": "hf://org/base", "secretRef": {"name": "hub"}},
        dataset={
            "train": [
                {"uri": "s3://a/b", "secretRef": {"name": "store"}},
                {"uri": "hf://org/set", "secretRef": {"name": "hub"}},
            ]
        },
        pod={"envFrom": [{"configMapRef": {"name": "proxy"}}]},
    )
    assert container(job)["envFrom"] == [
        {"secretRef": {"name": "hub"}},
        {"secretRef": {"name": "store"}},
        {"configMapRef": {"name": "proxy"}},
        {"prefix": "ALPACA_SECRET_0_", "secretRef": {"name": "hub"}},
        {"prefix": "ALPACA_SECRET_1_", "secretRef": {"name": "store"}},
    ]
    assert env(job)["ALPACA_SECRETS"] == "hub,store"


def test_labels_by_which_the_pod_is_found_cannot_be_overwritten():
    labels = template(sft_job(pod={"labels": {"literary-alpaca.io/uid": "other", "team": "a"}}))["metadata"]["labels"]
    assert labels == {
        "team": "a",
        "app.kubernetes.io/managed-by": "literary-alpaca",
        "literary-alpaca.io/kind": "SFTJob",
        "literary-alpaca.io/name": "poet",
        "literary-alpaca.io/uid": "uid-poet",
    }


def test_the_image_is_the_users_or_the_operators():
    assert container(sft_job())["image"] == "registry.example/sft:1"
    assert container(sft_job(pod={"image": "own:2"}))["image"] == "own:2"


UNFIT = [
    pytest.param(
        {"output": {"uri": "./poet"}},
        "output.uri ./poet lies within the pod and would be lost with it: write pvc://<claim>/<folder> or s3://<bucket>/<key>, or mount a "
        "volume there (pod.volumes); the spec is immutable, so in a job of another name",
        id="an output in the working directory",
    ),
    pytest.param(
        {"output": {"uri": "file:///tmp/poet"}},
        "output.uri file:///tmp/poet lies within the pod and would be lost with it: write pvc://<claim>/<folder> or s3://<bucket>/<key>, or "
        "mount a volume there (pod.volumes); the spec is immutable, so in a job of another name",
        id="an output in the pod's scratch space",
    ),
    pytest.param(
        {"output": {"uri": "pvc://models/"}},
        "output.uri pvc://models/ names no folder within a claim: write pvc://<claim>/<folder>; the spec is immutable, so in a job of "
        "another name",
        id="an output that is a whole claim, beside which nothing can be written",
    ),
    pytest.param(
        {"pod": {"volumes": [{"name": "a", "emptyDir": {}}]}},
        "pod.volumes[0] has no mountPath: a volume needs name and mountPath besides its source; the spec is immutable, so in a job of "
        "another name",
        id="a volume without a place",
    ),
    pytest.param(
        {"pod": {"volumes": [{"name": "a", "mountPath": "/a", "readOnly": True}]}},
        "pod.volumes[0] (a) has no source: name one, such as persistentVolumeClaim: {claimName: …}; the spec is immutable, so in a job of "
        "another name",
        id="a volume that the API server would make an emptyDir",
    ),
    pytest.param(
        {"pod": {"volumes": [{"name": "a", "mountPath": "/a", "nfs": {}, "emptyDir": {}}]}},
        "pod.volumes[0] (a) has 2 sources (nfs, emptyDir): name one, such as persistentVolumeClaim: {claimName: …}; the spec is immutable, "
        "so in a job of another name",
        id="a volume of two sources",
    ),
    pytest.param(
        {"pod": {"volumes": [{"name": "a", "mountPath": "/a", "emptyDir": {"sizeLimit": "5 GB"}}]}},
        "pod.volumes[0].emptyDir.sizeLimit is '5 GB', which is no quantity: write a number, such as 5Gi or 500M; the spec is immutable, "
        "so in a job of another name",
        id="a volume of a size that is none",
    ),
    pytest.param(
        {
            "pod": {
                "env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1x"}}}]
            }
        },
        "pod.env[0].valueFrom.resourceFieldRef.divisor is '1x', which is no quantity: write a number, such as 5Gi or 500M; the spec is "
        "immutable, so in a job of another name",
        id="a divisor that is none",
    ),
    *(
        pytest.param(
            {"output": {"uri": uri}, "pod": {"volumes": volumes}},
            f"output.uri {uri} lies on volume out ({source}) and would be lost with it: write pvc://<claim>/<folder> or "
            "s3://<bucket>/<key>, or mount a volume that outlives it there (pod.volumes); the spec is immutable, so in a job of another "
            "name",
            id=what,
        )
        for what, uri, source, volumes in [
            (
                "an output on an emptyDir",
                "/out/model",
                "emptyDir",
                [{"name": "out", "mountPath": "/out/", "emptyDir": {}}],
            ),
            (
                "an output on a claim that is deleted with the pod",
                "file:///out/model",
                "ephemeral",
                [{"name": "out", "mountPath": "/out", "ephemeral": {"volumeClaimTemplate": {}}}],
            ),
            (
                "an output on a source with a typo",
                "/out/model",
                "persistentVolumeClame",
                [{"name": "out", "mountPath": "/out", "persistentVolumeClame": {"claimName": "a"}}],
            ),
            (
                "an output on an emptyDir within a claim",
                "/data/scratch/model",
                "emptyDir",
                [
                    {"name": "data", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "a"}},
                    {"name": "out", "mountPath": "/data/scratch", "emptyDir": {}},
                ],
            ),
            (
                "an output on an emptyDir that hides a part of the claim",
                "pvc://models/new/poet",
                "emptyDir",
                [{"name": "out", "mountPath": "/mnt/models/new", "emptyDir": {}}],
            ),
            (
                "an output that leaves its volume again",
                "/data/../out/poet",
                "emptyDir",
                [
                    {"name": "data", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "a"}},
                    {"name": "out", "mountPath": "/out", "emptyDir": {}},
                ],
            ),
        ]
    ),
    pytest.param(
        {"output": {"uri": "pvc://models/../../x"}},
        "output.uri pvc://models/../../x lies within the pod and would be lost with it: write pvc://<claim>/<folder> or "
        "s3://<bucket>/<key>, or mount a volume there (pod.volumes); the spec is immutable, so in a job of another name",
        id="an output that leaves its claim",
    ),
    pytest.param(
        {
            "output": {"uri": "/out/model"},
            "pod": {"volumes": [{"name": "out", "mountPath": "/out", "readOnly": True, "nfs": {}}]},
        },
        "output.uri /out/model lies on volume out, which is mounted read-only: write pvc://<claim>/<folder> or s3://<bucket>/<key>, or "
        "remove its readOnly; the spec is immutable, so in a job of another name",
        id="an output on a volume that is only read",
    ),
    pytest.param(
        {"output": {"uri": "/out"}, "pod": {"volumes": [{"name": "out", "mountPath": "/out", "nfs": {}}]}},
        "output.uri /out is where volume out is mounted: name a folder below it, so that it can be replaced as a whole; the spec is "
        "immutable, so in a job of another name",
        id="an output that is a mount point",
    ),
]


@pytest.mark.parametrize(("spec", "message"), UNFIT)
def test_what_cannot_run_in_a_pod(spec, message):
    refusal = pod.unfit(sft_job(**spec), SETTINGS)
    assert (refusal.reason, refusal.message) == (Reason.INVALID_SPEC, message)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="a claim"),
        pytest.param({"output": {"uri": "s3://bucket/poet"}}, id="an object store"),
        pytest.param(
            {"output": {"uri": "/data/poet"}, "pod": {"volumes": [{"name": "a", "mountPath": "/data", "nfs": {}}]}},
            id="a path on a volume of the user",
        ),
        pytest.param(
            {
                "output": {"uri": "file:///data/poet"},
                "pod": {"volumes": [{"name": "a", "mountPath": "/data/", "nfs": {}}]},
            },
            id="a file URI on a volume of the user",
        ),
        pytest.param(
            {
                "output": {"uri": "/scratch/kept/poet"},
                "pod": {
                    "volumes": [
                        {"name": "a", "mountPath": "/scratch", "emptyDir": {}},
                        {"name": "b", "mountPath": "/scratch/kept", "persistentVolumeClaim": {"claimName": "c"}},
                    ]
                },
            },
            id="a claim within an emptyDir",
        ),
    ],
)
def test_what_can(spec):
    assert pod.unfit(sft_job(**spec), SETTINGS) is None


def test_an_operator_without_an_image_says_how_to_give_it_one():
    refusal = pod.unfit(sft_job(), Settings())
    assert refusal.message == (
        "pod.image is not set, and the operator has no image for SFTJob: set it, or the operator's ALPACA_IMAGE_SFTJOB; the spec is "
        "immutable, so in a job of another name"
    )
    assert pod.unfit(sft_job(pod={"image": "own:1"}), Settings()) is None
