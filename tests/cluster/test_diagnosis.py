"""What a real kubelet, scheduler and Job controller say, told in one line: the words that diagnosis/ looks for are theirs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from alpaca_operator import diagnosis
from alpaca_operator.api import SFTJob
from alpaca_operator.api.contract import LABEL_NAME
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.objects import Pod
from alpaca_operator.diagnosis import model, refusals
from alpaca_operator.exits import Refused
from alpaca_operator.plan import PLANNERS
from alpaca_operator.plan.job import STOP_PATCH
from alpaca_operator.settings import Settings
from tests.cluster.bed.cluster import until
from tests.cluster.bed.node import Bed

pytestmark = pytest.mark.cluster

NAMESPACE = "diagnosis"
LAST_WORD = """
import json, sys
print("reading", flush=True)
open("/dev/termination-log", "w").write(json.dumps({"reason": "InvalidData", "exitCode": 65, "message": "a.csv, row 7: no answer"}))
sys.exit(65)
"""
SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
while True: time.sleep(0.1)
"""
LEAVES_A_TRACEBACK = """
print('{"step": 1}')
raise ValueError("boom")
"""
GREEDY = "x = bytearray(400 << 20)"
NOTHING = "pass"

CASES: dict[str, tuple[str | None, dict[str, Any], str]] = {
    "last-word": (LAST_WORD, {}, "a.csv, row 7: no answer (pod {pod}, exit 65)"),
    "traceback": (LEAVES_A_TRACEBACK, {}, "ValueError: boom: see kubectl logs -n diagnosis {pod} (pod {pod}, exit 1)"),
    "memory": (
        GREEDY,
        {"resources": {"limits": {"memory": "64Mi"}}},
        "out of memory at the limit of 64Mi: raise pod.resources.limits.memory (it includes /dev/shm), or make the batch smaller (pod "
        "{pod}, exit 137)",
    ),
    "gpus": (
        NOTHING,
        {"resources": {"limits": {"nvidia.com/gpu": 99}}},
        "no node fits a pod that asks for nvidia.com/gpu: 99 (0/1 nodes are available: 1 Insufficient nvidia.com/gpu): lower "
        "pod.resources, wait for other pods to end, or add a node that has them (pod {pod})",
    ),
    "selector": (
        NOTHING,
        {"nodeSelector": {"disk": "fast"}},
        "no node fits a pod that asks for no resources (0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector): "
        "correct pod.nodeSelector or pod.affinity (pod {pod})",
    ),
    "no-claim": (
        NOTHING,
        {"volumes": [{"name": "data", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "missing"}}]},
        "PersistentVolumeClaim missing does not exist in namespace diagnosis: create it, or name another claim in pvc:// (pod {pod})",
    ),
    "unbound": (
        NOTHING,
        {"volumes": [{"name": "data", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "unbound"}}]},
        "a volume is not ready (0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims): see kubectl describe pvc -n "
        "diagnosis for unbound (pod {pod})",
    ),
    "never-pulled": (
        NOTHING,
        {"image": "registry.example/none:1", "imagePullPolicy": "Never"},
        "image registry.example/none:1 cannot be pulled: it is not on the node, and pod.imagePullPolicy is Never (pod {pod})",
    ),
    "no-image": (
        NOTHING,
        {"image": "127.0.0.1:1/none:1"},
        "image 127.0.0.1:1/none:1 cannot be pulled: the registry cannot be reached from the node: check its name in pod.image, and the node's network (pod {pod})",
    ),
    "image-name": (
        NOTHING,
        {"image": "Not:An:Image"},
        "image Not:An:Image cannot be pulled: that is not an image name: correct pod.image (pod {pod})",
    ),
    "no-secret": (
        NOTHING,
        {"envFrom": [{"secretRef": {"name": "hub"}}]},
        'the container cannot be made: secret "hub" not found: create it: kubectl create secret generic hub -n diagnosis (pod {pod})',
    ),
    "foreign-image": (
        None,
        {},
        "/usr/local/bin/python: Error while finding module specification for 'workloads.sft' (ModuleNotFoundError: No module named "
        "'workloads'): pod.image must be one of this project's images, or built from one (pod {pod}, exit 1)",
    ),
}


def child(bed: Bed, name: str, script: str | None, *, max_restarts: int = 0, **pod: Any) -> dict[str, Any]:
    """The Job that the planner makes, with another program in its container."""
    job = SFTJob.model_validate(
        {
            "kind": "SFTJob",
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}"},
            "spec": {
                "model": {"uri": "s3://bucket/base"},
                "dataset": {"train": [{"uri": "s3://bucket/rows"}]},
                "output": {"uri": "s3://bucket/out"},
                "failurePolicy": {"maxRestarts": max_restarts},
                "pod": {"image": bed.images["base"], "imagePullPolicy": "IfNotPresent", **pod},
            },
        }
    )
    (made,) = PLANNERS["SFTJob"](job, {}, Settings()).manifests
    del made["metadata"]["ownerReferences"]
    if script is not None:
        made["spec"]["template"]["spec"]["containers"][0]["command"] = ["python", "-c", script]
    return made


@pytest.fixture(scope="module")
def jobs(bed) -> Iterator[Bed]:
    """All of them at once: most of the time goes by in waiting."""
    unbound = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}
    with bed.namespace(NAMESPACE):
        bed.create(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "unbound"}, "spec": unbound},
            *(child(bed, name, script, **pod) for name, (script, pod, _) in CASES.items()),
            *(child(bed, name, SAVES) for name in ("evicted", "deleted")),
            child(bed, "ended", LEAVES_A_TRACEBACK, max_restarts=100),
            child(
                bed,
                "unmounted",
                NOTHING,
                volumes=[{"name": "key", "mountPath": "/key", "secret": {"secretName": "missing"}}],
            ),
            child(bed, "refused", NOTHING, volumes=[{"name": "node", "mountPath": "/node", "hostPath": {"path": "/"}}]),
            namespace=NAMESPACE,
        )
        yield bed


def pods(bed: Bed, name: str) -> list[dict[str, Any]]:
    found = bed.items("pods", "-n", NAMESPACE, "-l", f"{LABEL_NAME}={name}")
    return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def told(bed: Bed, name: str) -> model.Diagnosis | None:
    found = pods(bed, name)
    return diagnosis.diagnose(Pod(found[0]), datetime.now(UTC)) if found else None


@pytest.mark.parametrize("name", CASES)
def test_what_a_pod_of_a_real_node_is_told_to_have(jobs, name):
    found = until(lambda: told(jobs, name), f"a diagnosis of {name}", seconds=120)
    assert found.message == CASES[name][2].format(pod=found.pod)


def test_a_volume_that_cannot_be_mounted_is_told_after_a_while(jobs):
    def waits() -> datetime | None:
        found = pods(jobs, "unmounted")
        return diagnosis.changes_at(Pod(found[0]), datetime.now(UTC)) if found else None

    moment = until(waits, "a pod on a node without its volumes", seconds=120)
    (pod,) = pods(jobs, "unmounted")
    name = pod["metadata"]["name"]
    assert diagnosis.diagnose(Pod(pod), datetime.now(UTC)) is None
    assert diagnosis.diagnose(Pod(pod), moment).message == (
        f"a volume (or the network) of the pod is not ready on node node1 after 2 minutes: the events of kubectl describe pod -n diagnosis "
        f"{name} say which (pod {name})"
    )


def until_it_runs(bed: Bed, name: str) -> str:
    def running() -> str:
        found = pods(bed, name)
        return (
            found[0]["metadata"]["name"]
            if found and "ready" in bed.logs(found[0]["metadata"]["name"], NAMESPACE)
            else ""
        )

    return until(running, f"{name} to run", seconds=120)


@pytest.mark.parametrize(
    ("name", "stop", "reason", "message"),
    [
        pytest.param(
            "evicted",
            lambda bed, pod: bed.evict(pod, NAMESPACE),
            Reason.DISRUPTED,
            "evicted from node node1, as when a node is drained; a checkpoint was saved (pod {pod}, exit 75)",
            id="evicted",
        ),
        pytest.param(
            "deleted",
            lambda bed, pod: bed.kubectl("delete", "pod", pod, "-n", NAMESPACE, "--wait=false"),
            Reason.INTERRUPTED,
            "stopped from outside after saving a checkpoint: see kubectl logs -n diagnosis {pod} (pod {pod}, exit 75)",
            id="deleted by hand",
        ),
    ],
)
def test_a_pod_that_was_stopped_is_followed_by_another(jobs, name, stop: Callable[[Bed, str], Any], reason, message):
    """With no restarts allowed: the Job controller ignores both, as podFailurePolicy says."""
    pod, last = until_it_runs(jobs, name), []

    def diagnosed() -> model.Diagnosis | None:
        # The pod goes as soon as the Job controller has seen its end; so does what it said.
        gone = [each for each in pods(jobs, name) if each["metadata"]["name"] == pod]
        found = diagnosis.diagnose(Pod(gone[0]), datetime.now(UTC)) if gone else None
        last.extend([found] if found and found.ended else [])
        return last[-1] if last else None

    stop(jobs, pod)
    found = until(diagnosed, f"the end of {pod}", seconds=120, every=0.02)
    assert (found.reason, found.message) == (reason, message.format(pod=pod))
    until(lambda: any(each["metadata"]["name"] != pod for each in pods(jobs, name)), "another pod", seconds=120)


def test_a_job_that_is_ended_makes_no_more_pods_and_keeps_the_log_of_the_last(jobs):
    """Deleting it would take the log that tells why."""
    found = until(lambda: told(jobs, "ended"), "the failure of its first pod", seconds=120)
    jobs.kubectl("patch", "job", "ended-sft", "-n", NAMESPACE, "--type=merge", "-p", json.dumps(STOP_PATCH))
    jobs.wait("job/ended-sft", "condition=Failed", NAMESPACE)
    assert found.pod in [each["metadata"]["name"] for each in pods(jobs, "ended")]
    assert "ValueError: boom" in jobs.logs(found.pod, NAMESPACE)
    assert "active" not in jobs.get("job", "ended-sft", "-n", NAMESPACE)["status"]


def test_a_pod_that_pod_security_refuses_is_told_in_an_event_of_the_job(jobs):
    def notes() -> list[str]:
        events = jobs.items("events.events.k8s.io", "-n", NAMESPACE)
        return [
            each["note"]
            for each in events
            if each["reason"] == "FailedCreate" and each["regarding"]["name"] == "refused-sft"
        ]

    note = until(notes, "the event")[0]
    assert refusals.exit_of_report(note) == Refused(
        Reason.ADMISSION_REFUSED,
        'PodSecurity refuses the pod: "restricted:latest": restricted volume types (volume "node" uses restricted volume type '
        '"hostPath"): change pod in a job of another name, or ask who set the policy',
    )
