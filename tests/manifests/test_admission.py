"""The policies say no on a real API server, with a line that says what to do; and nothing to what they do not judge."""

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

QUEUE = {"kueue.x-k8s.io/queue-name": "gpus"}
HOST_PATH = {"pod": {"volumes": [{"name": "node", "mountPath": "/node", "hostPath": {"path": "/"}}]}}
NINE_GPUS = {"pod": {"resources": {"limits": {"nvidia.com/gpu": 9}}}}
FOREIGN = {"pod": {"image": "evil.example/sft:1"}}
CLAIM = {"pod": {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "a-hundred"}]}}
EVERYTHING = {"pod": FOREIGN["pod"] | HOST_PATH["pod"] | NINE_GPUS["pod"] | CLAIM["pod"]}
PLACES = "registry.invalid/literary-alpaca/, registry.example/literary-alpaca/"
SOURCES = "which is not allowed: use a PersistentVolumeClaim"
GPUS = "GPUs, which is not allowed: lower it"


@pytest.fixture(scope="module")
def guarded(installed, tmp_path_factory) -> Iterator[ControlPlane]:
    """With the components' policies in force, and gone afterwards: other tests' jobs have no queue."""
    components = [MANIFESTS / "components" / name for name in ("admission", "kueue")]
    built = kustomized(overlay(tmp_path_factory.mktemp("guarded"), *components))
    policies = [
        each for each in built if "Admission" in each["kind"] or each["metadata"]["name"] == "literary-alpaca-limits"
    ]
    assert len(policies) == 11
    # What was there before the policies, and breaks every one of them.
    older = [
        manifest("SFTJob", EVERYTHING, "older"),
        manifest("ChatDeployment", {**EVERYTHING, "replicas": 20}, "older"),
    ]
    installed.apply(*older)
    installed.apply(*policies)
    for spec, words in ((HOST_PATH, "hostPath"), (NINE_GPUS, "GPUs"), (FOREIGN, "must begin"), (CLAIM, "claims")):
        until(lambda spec=spec, words=words: words in refusal(installed, spec), f"the policy on {words}")
    until(lambda: "replicas is" in refusal(installed, {"replicas": 17}, "ChatDeployment"), "the policy on replicas")
    until(lambda: "queue-name" in refusal(installed, {}, queued=False), "the policy on queues")
    yield installed
    installed.kubectl("delete", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": policies}))
    until(lambda: not refusal(installed, FOREIGN | HOST_PATH, queued=False), "the end of the policies")
    installed.kubectl("delete", "--ignore-not-found", "-n", "default", "sftjob/older", "chat/older")


def manifest(kind: str, spec: dict[str, Any], name: str = "guarded", *, queued: bool = True) -> dict[str, Any]:
    of_a_job = {"dataset": {"train": [{"uri": "pvc://data/a.jsonl"}]}, "output": {"uri": "pvc://models/guarded"}}
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default", "labels": QUEUE if queued else {}},
        "spec": {"model": {"uri": "pvc://models/base"}, **(of_a_job if kind == "SFTJob" else {}), **spec},
    }


def refusal(plane: ControlPlane, spec: dict[str, Any], kind: str = "SFTJob", *, queued: bool = True) -> str:
    """What the API server says to a resource with this spec; nothing when it takes it."""
    text = json.dumps(manifest(kind, spec, queued=queued))
    return said(plane, "create", "--dry-run=server", "-n", "default", "-f", "-", input=text)


def said(plane: ControlPlane, *words: str, **more: Any) -> str:
    """What the API server says against a command of kubectl; nothing when it takes it."""
    try:
        plane.kubectl(*words, **more)
    except BedError as error:
        return str(error)
    return ""


def asks(**limits: Any) -> dict[str, Any]:
    return {"resources": {"limits": limits}}


def mounts(source: str, content: Any = None) -> dict[str, Any]:
    return {"pod": {"volumes": [{"name": "a", "mountPath": "/a", source: content or {}}]}}


@pytest.mark.parametrize(
    ("spec", "queued", "message"),
    [
        pytest.param(
            FOREIGN,
            True,
            f"pod.image evil.example/sft:1 is not allowed: it must begin with one of {PLACES}",
            id="an image from elsewhere",
        ),
        pytest.param(
            mounts("image", {"reference": "evil.example/model:1"}),
            True,
            f"pod.volumes evil.example/model:1 is not allowed: it must begin with one of {PLACES}",
            id="an image that is mounted",
        ),
        pytest.param(
            {"pod": {"image": "evil.example/\nsft"}},
            True,
            "an image of the pod is not allowed; images of ConfigMap literary-alpaca-limits says which are",
            id="an image that cannot be told in one line",
        ),
        pytest.param(HOST_PATH, True, f"pod.volumes mounts a hostPath, {SOURCES}", id="a folder of the node"),
        pytest.param(
            mounts("gitRepo", {"repository": "https://evil.example"}),
            True,
            f"pod.volumes mounts a gitRepo, {SOURCES}",
            id="a clone that the node makes",
        ),
        pytest.param(
            NINE_GPUS,
            True,
            f"pod.resources.limits asks for more than 8 {GPUS}",
            id="more GPUs than allowed",
        ),
        pytest.param(
            {"pod": {"resources": {"limits": {"amd.com/gpu": "16"}}}},
            True,
            f"pod.resources.limits asks for more than 8 {GPUS}",
            id="of whatever vendor, as a string",
        ),
        pytest.param(
            {"pod": asks(**{"nvidia.com/mig-1g.5gb": 9})},
            True,
            f"pod.resources.limits asks for more than 8 {GPUS}",
            id="parts of GPUs",
        ),
        pytest.param(
            {"pod": asks(**{"huawei.com/Ascend910": "1k"})},
            True,
            f"pod.resources.limits asks for more than 8 {GPUS}",
            id="devices that are no GPUs by name, by the thousand",
        ),
        pytest.param(
            {"pod": asks(**{"nvidia.com/gpu": 5, "amd.com/gpu": 4})},
            True,
            f"pod.resources.limits asks for more than 8 {GPUS}",
            id="of several vendors together",
        ),
        pytest.param(
            {"pod": {"resources": {"requests": {"nvidia.com/gpu": 9}}}},
            True,
            f"pod.resources.requests asks for more than 8 {GPUS}",
            id="as requests",
        ),
        pytest.param(
            {"pod": asks(**{"nvidia.com/gpu": 5}), "parallelism": {"nodes": 2}},
            True,
            "pod.resources.limits asks for more than 8 GPUs in 2 pods, which is not allowed: lower it",
            id="GPUs of several nodes",
        ),
        pytest.param(
            CLAIM,
            True,
            "pod.resourceClaims has more claims (1) than are allowed (0), for each may be of any number of devices: use pod.resources.limits",
            id="claims on devices, of whatever number",
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
    ("spec", "message"),
    [
        pytest.param(
            {"page": asks(**{"nvidia.com/gpu": 9})},
            f"page.resources.limits asks for more than 8 {GPUS}",
            id="GPUs of the page",
        ),
        pytest.param(
            {"pod": asks(**{"nvidia.com/gpu": 5}), "page": asks(**{"nvidia.com/gpu": 5})},
            f"pod.resources.limits and page.resources.limits ask together for more than 8 {GPUS}",
            id="GPUs of both",
        ),
        pytest.param(
            {"pod": asks(**{"nvidia.com/gpu": 1}), "replicas": 9},
            "pod.resources.limits asks for more than 8 GPUs in 9 pods, which is not allowed: lower it",
            id="GPUs of many pods",
        ),
        pytest.param({"replicas": 17}, "replicas is 17, and 16 are allowed: lower it", id="pods"),
        pytest.param(
            {"page": {"replicas": 17}}, "page.replicas is 17, and 16 are allowed: lower it", id="pods of the page"
        ),
        pytest.param(
            {"page": {"replicas": 9, **asks(**{"nvidia.com/gpu": 1})}},
            f"page.resources.limits asks for more than 8 {GPUS}",
            id="GPUs of many pages",
        ),
        pytest.param(
            {"page": {"image": "evil.example/page"}}, "page.image evil.example/page is not allowed", id="a page"
        ),
    ],
)
def test_what_is_refused_of_a_deployment(guarded, spec, message):
    assert message in refusal(guarded, spec, "ChatDeployment")


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="the operator's image and no GPU"),
        pytest.param({"pod": {"image": "registry.example/literary-alpaca/sft:1"}}, id="an image from a known place"),
        pytest.param(
            {"pod": {"resources": {"limits": {"nvidia.com/gpu": 8, "memory": "64Gi"}}}}, id="as many GPUs as allowed"
        ),
        pytest.param({"pod": asks(**{"hugepages-2Mi": "1Gi", "cpu": 64})}, id="what is no device"),
        pytest.param(mounts("emptyDir"), id="a volume of its own"),
        pytest.param(mounts("image", {"reference": "registry.example/literary-alpaca/model:1"}), id="a known image"),
        pytest.param(
            {"pod": {"volumes": [{"name": "a", "mountPath": "/a", "readOnly": True, "subPath": "b", "secret": {}}]}},
            id="the fields of a mount",
        ),
    ],
)
def test_what_is_taken(guarded, spec):
    assert refusal(guarded, spec) == ""


@pytest.mark.parametrize("kind", ["sftjob", "chat"])
def test_what_was_there_before_may_be_labelled_held_and_deleted(guarded, kind):
    """Nothing that a policy judges changes by it."""
    name = f"{kind}/older"
    assert said(guarded, "label", "-n", "default", name, "team=poetry", "--overwrite") == ""
    for finalizers in ('["example.org/hold"]', "null"):
        patch = f'{{"metadata": {{"finalizers": {finalizers}}}}}'
        assert said(guarded, "patch", "-n", "default", name, "--type=merge", "-p", patch) == ""
    changes = {"sftjob": {"suspend": True}, "chat": {"replicas": 19, "page": {"title": "Poet", "replicas": 2}}}
    patch = json.dumps({"spec": changes[kind]})
    assert said(guarded, "patch", "-n", "default", name, "--type=merge", "-p", patch) == ""
    assert said(guarded, "delete", "--dry-run=server", "-n", "default", name, "--cascade=foreground") == ""


def test_a_foreground_deletion_comes_to_its_end(guarded):
    """The garbage collector takes its finalizer off by an update, which a policy that judged it would refuse for ever."""
    guarded.kubectl("delete", "-n", "default", "sftjob/older", "--cascade=foreground", "--timeout=60s")
    assert "NotFound" in said(guarded, "get", "-n", "default", "sftjob/older")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param(FOREIGN | {"pod": {"image": "evil.example/sft:2"}}, "pod.image evil.example/sft:2", id="an image"),
        pytest.param({"page": {"image": "evil.example/page"}}, "page.image evil.example/page", id="the page's"),
        pytest.param(
            {"pod": asks(**{"nvidia.com/gpu": 10})}, "pod.resources.limits asks for more than 8 GPUs", id="GPUs"
        ),
        pytest.param(mounts("gitRepo"), "pod.volumes mounts a gitRepo", id="a volume"),
    ],
)
def test_a_real_change_is_judged(guarded, spec, message):
    patch = json.dumps({"spec": spec})
    answer = said(guarded, "patch", "-n", "default", "chat/older", "--dry-run=server", "--type=merge", "-p", patch)
    assert message in answer


def test_scaling_is_judged_where_it_is_no_change_of_the_spec(guarded):
    answer = said(guarded, "scale", "-n", "default", "chat/older", "--replicas=40")
    assert "replicas is 40, and 16 are allowed: lower it" in answer
    assert said(guarded, "scale", "-n", "default", "chat/older", "--replicas=2") == ""


@pytest.mark.parametrize(
    ("images", "spec", "message"),
    [
        pytest.param("registry.example/a/, ", FOREIGN, "it must begin with one of registry.example/a/", id="a comma"),
        pytest.param(
            "registry.example/a",
            {"pod": {"image": "registry.example/abc:1"}},
            "pod.image registry.example/abc:1 is not allowed",
            id="a folder whose name goes on",
        ),
        pytest.param("registry.example/a", {"pod": {"image": "registry.example/a:1"}}, "", id="the image itself"),
    ],
)
def test_a_list_of_places_allows_what_it_says_and_no_more(guarded, images, spec, message):
    limits = ("-n", "literary-alpaca-system", "configmap/literary-alpaca-limits", "--type=merge", "-p")
    try:
        guarded.kubectl("patch", *limits, json.dumps({"data": {"images": images}}))
        probe = {"pod": {"image": "nowhere.example/a"}}
        until(lambda: f"one of {images.strip(', ')}" in refusal(guarded, probe), "the new list")
        answer = refusal(guarded, spec)
        assert message in answer if message else answer == ""
    finally:
        guarded.kubectl("patch", *limits, json.dumps({"data": {"images": PLACES}}))
        until(lambda: PLACES in refusal(guarded, FOREIGN), "the old list")


def test_limits_that_are_no_numbers_are_told_in_a_sentence(guarded):
    limits = ("-n", "literary-alpaca-system", "configmap/literary-alpaca-limits", "--type=merge", "-p")
    sentence = "gpus or claims of ConfigMap literary-alpaca-limits is no whole number; correct it"
    try:
        guarded.kubectl("patch", *limits, json.dumps({"data": {"gpus": "eight"}}))
        until(lambda: sentence in refusal(guarded, {}), "the sentence")
    finally:
        guarded.kubectl("patch", *limits, json.dumps({"data": {"gpus": "8"}}))
        until(lambda: refusal(guarded, {}) == "", "the old limit")
