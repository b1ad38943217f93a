"""The policies say no on a real API server, with a line that says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.bed.cache import BedError
from tests.cluster.bed.cluster import until
from tests.cluster.bed.controlplane import ControlPlane
from tests.manifests.build import MANIFESTS, kustomized
from tests.manifests.test_kustomize import overlay

pytestmark = pytest.mark.controlplane


@pytest.fixture(scope="module")
def guarded(installed, tmp_path_factory) -> Iterator[ControlPlane]:
    """With the components' policies in force, and gone afterwards: other tests' jobs have no queue."""
    components = [MANIFESTS / "components" / name for name in ("admission", "kueue")]
    built = kustomized(overlay(tmp_path_factory.mktemp("guarded"), *components))
    policies = [
        each for each in built if "Admission" in each["kind"] or each["metadata"]["name"] == "literary-alpaca-limits"
    ]
    assert len(policies) == 9
    installed.apply(*policies)
    for spec, words in ((HOST_PATH, "hostPath"), (NINE_GPUS, "GPUs"), (FOREIGN, "must begin")):
        until(lambda spec=spec, words=words: words in refusal(installed, spec), f"the policy on {words}")
    until(lambda: "queue-name" in refusal(installed, {}, queued=False), "the policy on queues")
    yield installed
    installed.kubectl("delete", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": policies}))
    until(lambda: not refusal(installed, FOREIGN | HOST_PATH, queued=False), "the end of the policies")


HOST_PATH = {"pod": {"volumes": [{"name": "node", "mountPath": "/node", "hostPath": {"path": "/"}}]}}
NINE_GPUS = {"pod": {"resources": {"limits": {"nvidia.com/gpu": 9}}}}
FOREIGN = {"pod": {"image": "evil.example/sft:1"}}


def refusal(plane: ControlPlane, spec: dict[str, Any], *, queued: bool = True) -> str:
    """What the API server says to a job with this spec; nothing when it takes it."""
    job = {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "SFTJob",
        "metadata": {"name": "guarded", "labels": {"kueue.x-k8s.io/queue-name": "gpus"} if queued else {}},
        "spec": {
            "model": {"uri": "pvc://models/base"},
            "dataset": {"train": [{"uri": "pvc://data/a.jsonl"}]},
            "output": {"uri": "pvc://models/guarded"},
            **spec,
        },
    }
    try:
        plane.kubectl("create", "--dry-run=server", "-n", "default", "-f", "-", input=json.dumps(job))
    except BedError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("spec", "queued", "message"),
    [
        pytest.param(
            FOREIGN,
            True,
            "pod.image evil.example/sft:1 is not allowed: it must begin with one of literary-alpaca/, registry.example/literary-alpaca/",
            id="an image from elsewhere",
        ),
        pytest.param(
            HOST_PATH,
            True,
            "pod.volumes mounts a hostPath, which is not allowed: use a PersistentVolumeClaim",
            id="a folder of the node",
        ),
        pytest.param(
            NINE_GPUS,
            True,
            "pod.resources.limits asks for more than 8 GPUs, which is not allowed: lower it",
            id="more GPUs than allowed",
        ),
        pytest.param(
            {"pod": {"resources": {"limits": {"amd.com/gpu": "16"}}}},
            True,
            "pod.resources.limits asks for more than 8 GPUs, which is not allowed: lower it",
            id="of whatever vendor, as a string",
        ),
        pytest.param(
            {},
            False,
            "the label kueue.x-k8s.io/queue-name is missing: name a LocalQueue of namespace default",
            id="a job beside the queue",
        ),
    ],
)
def test_what_is_refused(guarded, spec, queued, message):
    assert message in refusal(guarded, spec, queued=queued)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="the operator's image and no GPU"),
        pytest.param({"pod": {"image": "registry.example/literary-alpaca/sft:1"}}, id="an image from a known place"),
        pytest.param(
            {"pod": {"resources": {"limits": {"nvidia.com/gpu": 8, "memory": "64Gi"}}}}, id="as many GPUs as allowed"
        ),
        pytest.param(
            {"pod": {"volumes": [{"name": "a", "mountPath": "/a", "emptyDir": {}}]}}, id="a volume of its own"
        ),
    ],
)
def test_what_is_taken(guarded, spec):
    assert refusal(guarded, spec) == ""
