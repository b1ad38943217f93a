"""What restarting containers in place would save a set of pods, beside making the pods anew as our jobs do, and what it leaves of how a
container ended: docs/processes.md says why there is no setting for it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.bed import binaries
from tests.cluster.bed.cluster import Manifest, until
from tests.cluster.bed.images import Image, Layer
from tests.cluster.bed.node import Bed
from tests.cluster.team import PATIENCE

pytestmark = [pytest.mark.cluster, pytest.mark.drill, pytest.mark.timeout(3600)]

NAMESPACE = "in-place"
MANAGER, SETTINGS = "deployment/jobset-controller-manager", "jobset-manager-config"
PODS = 2
RESTARTS = 5
FAILED, AGAIN = 3, 88
"""Exit codes: of a worker that fails, and of an agent whose pod is to begin anew."""
WORKER = f"""
import json, os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os._exit({FAILED}))
def tell(what): print(json.dumps({{"what": what, "at": time.time()}}), flush=True)
tell("begun")
import torch, transformers, peft
tell("imported")
while True: time.sleep(1)
"""
"""Until somebody tells it to fail. What a training imports takes most of its start."""
FAIL = "import os, signal, time; print(time.time()); os.kill(1, signal.SIGTERM)"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture(scope="module")
def gated(jobset: Bed) -> Iterator[Bed]:
    """JobSet with the feature, and a namespace whose pods may patch each other."""
    (folder,) = binaries.ensure(["in-place-restart-agent"])
    program = Layer({"agent": (folder / "in-place-restart-agent").read_bytes()})
    jobset.load(Image("agent", "bed.local/in-place-restart-agent:1", (program,), {"User": "1000:1000"}))
    settings = jobset.get("configmap", SETTINGS, "-n", "jobset-system")["data"]
    configure(jobset, {name: f"{text}\nfeatureGates:\n  InPlaceRestart: true\n" for name, text in settings.items()})
    with jobset.namespace(NAMESPACE):
        jobset.apply(*rights())
        until(lambda: jobset.create(in_place("probe"), flags=["--dry-run=server"]), "JobSet with the feature", PATIENCE)
        yield jobset
    configure(jobset, settings)


def configure(jobset: Bed, settings: dict[str, str]) -> None:
    """The manager started anew with other settings."""
    namespace = ["-n", "jobset-system"]
    jobset.kubectl("patch", "configmap", SETTINGS, *namespace, "-p", json.dumps({"data": settings}))
    jobset.kubectl("rollout", "restart", MANAGER, *namespace)
    jobset.kubectl("rollout", "status", MANAGER, *namespace, f"--timeout={PATIENCE:.0f}s", seconds=PATIENCE + 10)


def rights() -> list[Manifest]:
    """As the agent wants them: there is no narrower rule than all pods of the namespace."""
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "patch"]},
        {"apiGroups": ["jobset.x-k8s.io"], "resources": ["jobsets"], "verbs": ["get", "list", "watch"]},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "agent"}
    named = {"name": "agent", "namespace": NAMESPACE}
    return [
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": named, "rules": rules},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": named,
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": NAMESPACE}],
        },
    ]


def job_set(name: str, policy: Manifest, job: Manifest, pod: Manifest, worker: Manifest) -> Manifest:
    container = {
        "name": "worker",
        "command": ["python", "-c", WORKER],
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        "securityContext": RESTRICTED,
        **worker,
    }
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 30, "containers": [container], **pod}
    template = {
        "parallelism": PODS,
        "completions": PODS,
        "completionMode": "Indexed",
        **job,
        "template": {"spec": spec},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "failurePolicy": {"maxRestarts": 100, **policy},
            "replicatedJobs": [{"name": "node", "replicas": 1, "template": {"spec": template}}],
        },
    }


def made_anew(name: str, image: str) -> Manifest:
    """As plan/jobset.py makes them."""
    policy = {"restartStrategy": "BlockingRecreate"}
    return job_set(name, policy, {"backoffLimit": 0}, {"automountServiceAccountToken": False}, {"image": image})


def in_place(name: str, image: str = "probe") -> Manifest:
    def rule(operator: str, value: int) -> list[Manifest]:
        return [{"action": "RestartAllContainers", "exitCodes": {"operator": operator, "values": [value]}}]

    def field(path: str) -> Manifest:
        return {"valueFrom": {"fieldRef": {"fieldPath": path}}}

    agent = {
        "name": "agent",
        "image": "bed.local/in-place-restart-agent:1",
        "command": ["/agent"],
        "env": [
            {"name": "POD_NAME", **field("metadata.name")},
            {"name": "JOBSET_NAME", **field("metadata.labels['jobset.sigs.k8s.io/jobset-name']")},
            {"name": "IN_PLACE_RESTART_EXIT_CODE", "value": str(AGAIN)},
        ],
        "restartPolicy": "Always",
        "restartPolicyRules": rule("In", AGAIN),
        "startupProbe": {
            "httpGet": {"path": "/barrier-is-down", "port": 8081},
            "periodSeconds": 1,
            "failureThreshold": 600,
        },
        "securityContext": RESTRICTED,
    }
    worker = {"image": image, "restartPolicy": "Never", "restartPolicyRules": rule("NotIn", 0)}
    job = {"backoffLimit": 2**31 - 1, "podReplacementPolicy": "Failed"}
    return job_set(name, {"restartStrategy": "InPlaceRestart"}, job, {"initContainers": [agent]}, worker)


def pods(bed: Bed, name: str) -> dict[str, Manifest]:
    """By their place, those that were not told to go."""
    found = bed.items("pods", "-n", NAMESPACE, "-l", f"jobset.sigs.k8s.io/jobset-name={name}")
    index = "batch.kubernetes.io/job-completion-index"
    return {pod["metadata"]["labels"][index]: pod for pod in found if not pod["metadata"].get("deletionTimestamp")}


def told(bed: Bed, pod: Manifest, what: str) -> float:
    """When the worker of a pod said it; 0 before it has."""
    status = pod["status"].get("containerStatuses", [{}])[0]
    if "running" not in status.get("state", {}):
        return 0
    lines = bed.kubectl("logs", pod["metadata"]["name"], "-n", NAMESPACE, "-c", "worker", check=False).splitlines()
    said = [json.loads(line) for line in lines if line.startswith("{")]
    return max((float(line["at"]) for line in said if line["what"] == what), default=0)


def all_told(bed: Bed, name: str, what: str, after: float) -> float:
    """When the last of all pods said it."""

    def last() -> float:
        found = pods(bed, name)
        times = [told(bed, pod, what) for pod in found.values()] if len(found) == PODS else []
        return max(times) if times and min(times) > after else 0

    return until(last, f"all pods of {name} to be {what}", 3 * PATIENCE)


def restarted(bed: Bed, name: str) -> tuple[float, float]:
    """Seconds after the first pod's worker failed until the workers of all have begun, and until they have imported what they need."""
    at = float(
        bed.kubectl(
            "exec",
            pods(bed, name)["0"]["metadata"]["name"],
            "-n",
            NAMESPACE,
            "-c",
            "worker",
            "--",
            "python",
            "-c",
            FAIL,
        )
    )
    return all_told(bed, name, "begun", at) - at, all_told(bed, name, "imported", at) - at


def test_what_a_restart_in_place_saves_and_what_it_leaves(gated: Bed, capsys: pytest.CaptureFixture[str]) -> None:
    image = gated.images["train"]
    taken: dict[str, list[tuple[float, float]]] = {}
    for manifest in (made_anew("anew", image), in_place("still", image)):
        name = manifest["metadata"]["name"]
        gated.apply(manifest)
        all_told(gated, name, "imported", 0)
        before = {pod["metadata"]["uid"] for pod in pods(gated, name).values()}
        taken[name] = [restarted(gated, name) for _ in range(RESTARTS)]
        after = {pod["metadata"]["uid"] for pod in pods(gated, name).values()}
        assert (before == after) is (name == "still")
        left = {place: ended(pod) for place, pod in sorted(pods(gated, name).items())}
        if name == "anew":
            gated.kubectl("delete", "jobset", name, "-n", NAMESPACE)
    begun, imported = (
        {name: statistics.median(pair[which] for pair in pairs) for name, pairs in taken.items()} for which in (0, 1)
    )
    with capsys.disabled():
        print(
            f"\n{PODS} pods, {RESTARTS} failures of one: all workers run again after {begun['anew']:.1f} s where pods are made anew, {begun['still']:.1f} s in "
            f"place; they have imported what a training needs after {imported['anew']:.1f} s and {imported['still']:.1f} s, "
            f"{imported['still'] / imported['anew']:.2f} of the time"
        )
        print(f"what the restarted pods say of their workers' ends in place: {left}")
    assert all(end["exitCode"] != FAILED for end in left.values()), "how a worker ended is told nowhere"


def ended(pod: Manifest) -> dict[str, Any]:
    """What a pod's status has of how its worker ended the last time."""
    status = pod["status"]["containerStatuses"][0]
    last = status.get("lastState", {}).get("terminated", {})
    return {
        "restarts": status["restartCount"],
        **{key: last[key] for key in ("exitCode", "reason", "message") if key in last},
    }
