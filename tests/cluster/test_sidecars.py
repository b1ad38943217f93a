"""Containers that a mesh or an agent puts into every pod neither decide nor hide what became of the workload."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.bed.cluster import Manifest, until
from tests.cluster.bed.node import Bed
from tests.cluster.team import Team, ready

pytestmark = pytest.mark.cluster

FOR_EVER = 100000
WORKLOAD = """
import json, os, sys, time
print(json.dumps({"message": "at work"}), flush=True)
time.sleep(float(os.environ["FOR_SECONDS"]))
code = int(os.environ["ENDS_WITH"])
reason = {0: "Succeeded", 65: "InvalidData"}.get(code, "WorkloadError")
with open("/dev/termination-log", "w") as word:
    json.dump({"reason": reason, "exitCode": code, "message": "as told"}, word)
sys.exit(code)
"""
PROXY = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(sys.argv[2])))
time.sleep(float(sys.argv[1]))
sys.exit(int(sys.argv[2]))
"""


def policy(image: str, place: str) -> list[Manifest]:
    """Puts a proxy first into pods that are labelled so: beside the workload (``containers``) or before it (``initContainers``)."""
    kind = f"Object.spec.{place}"
    native = ', restartPolicy: "Always"' if place == "initContainers" else ""
    secure = f'{kind}.securityContext{{allowPrivilegeEscalation: false, capabilities: {kind}.securityContext.capabilities{{drop: ["ALL"]}}}}'
    arguments = "string(object.metadata.annotations['mesh/seconds']), string(object.metadata.annotations['mesh/exit'])"
    proxy = f'{kind}{{name: "proxy", image: {json.dumps(image)}, command: ["python", "-c", {json.dumps(PROXY)}, {arguments}], securityContext: {secure}{native}}}'
    patch = (
        f'[JSONPatch{{op: "add", path: "/spec/{place}/0", value: {proxy}}}]'
        if place == "containers"
        else f'[JSONPatch{{op: "add", path: "/spec/{place}", value: [{proxy}]}}]'
    )
    return [
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": f"mesh-{place.lower()}"},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "matchConstraints": {
                    "resourceRules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
                    ],
                    "objectSelector": {"matchLabels": {"mesh": place}},
                },
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": f"mesh-{place.lower()}"},
            "spec": {"policyName": f"mesh-{place.lower()}"},
        },
    ]


@pytest.fixture(scope="module")
def meshed(shared: Team) -> Iterator[Team]:
    """A namespace whose pods may ask for a proxy, and a workload that ends as it is told."""
    policies = [
        part for place in ("containers", "initContainers") for part in policy(shared.bed.images["train"], place)
    ]
    shared.bed.apply(*policies)
    shared.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "workloads"},
            "data": {"__init__.py": "", "sft.py": WORKLOAD},
        }
    )
    until(lambda: proxied(shared.bed, shared.namespace), "the policies to hold")
    yield shared
    for part in policies:
        shared.bed.kubectl("delete", part["kind"], part["metadata"]["name"])


def proxied(bed: Bed, namespace: str) -> bool:
    found = []
    for place in ("containers", "initContainers"):
        probe = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "probe",
                "labels": {"mesh": place},
                "annotations": {"mesh/seconds": "1", "mesh/exit": "0"},
            },
            "spec": {
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 1000,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "c",
                        "image": "i",
                        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    }
                ],
            },
        }
        made = bed.create(probe, namespace=namespace, flags=["--dry-run=server", "-o", "json"])
        found.append("proxy" in made)
    return all(found)


def start(
    team: Team, name: str, *, work: tuple[float, int], proxy: tuple[float, int], place: str = "containers"
) -> None:
    """``work`` and ``proxy``: seconds, and the exit code."""
    variables = {"PYTHONPATH": "/told", "FOR_SECONDS": str(work[0]), "ENDS_WITH": str(work[1])}
    pod: dict[str, Any] = {
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "resources": {"requests": {"cpu": "20m"}},
        "terminationGracePeriodSeconds": 20,
        "volumes": [{"name": "workloads", "mountPath": "/told/workloads", "configMap": {"name": "workloads"}}],
        "labels": {"mesh": place},
        "annotations": {"mesh/seconds": str(proxy[0]), "mesh/exit": str(proxy[1])},
    }
    team.start(name, pod=pod, failurePolicy={"maxRestarts": 1})


def test_whatever_a_proxy_does_the_workload_says_how_the_job_ends(meshed: Team) -> None:
    start(meshed, "never-ends", work=(3, 0), proxy=(FOR_EVER, 0))
    start(meshed, "fails-later", work=(3, 0), proxy=(20, 1))
    start(meshed, "fails-early", work=(15, 0), proxy=(1, 64))
    start(meshed, "native", work=(3, 0), proxy=(FOR_EVER, 1), place="initContainers")
    start(meshed, "bad-row", work=(3, 65), proxy=(FOR_EVER, 0))
    start(meshed, "crashes", work=(3, 70), proxy=(FOR_EVER, 0))
    for name in ("never-ends", "fails-later", "fails-early", "native"):
        assert meshed.state(name, "Succeeded")["status"]["restarts"]["total"] == 0, name
    assert ready(meshed.state("bad-row", "InvalidData"))["message"].startswith("as told (pod bad-row-sft-")
    gave_up = meshed.state("crashes", "RestartsExceeded")
    assert gave_up["status"]["restarts"]["user"] == 1
    assert [attempt["exitCode"] for attempt in gave_up["status"]["attempts"]] == [70, 70]

    def none_runs() -> bool:
        pods = meshed.bed.items("pods", "-n", meshed.namespace)
        return all(pod["status"]["phase"] in ("Succeeded", "Failed") for pod in pods)

    until(none_runs, "nobody to keep a pod going", 120)
    assert {
        name: len(meshed.pods(name)) for name in ("never-ends", "fails-later", "fails-early", "native", "bad-row")
    } == dict.fromkeys(("never-ends", "fails-later", "fails-early", "native", "bad-row"), 1), (
        "what is done is not run again, and its pod stays"
    )
    first = meshed.pods("crashes")[0]["metadata"]["name"]
    assert "at work" in meshed.bed.kubectl("logs", first, "-n", meshed.namespace, "-c", "workload"), "its log stays"
