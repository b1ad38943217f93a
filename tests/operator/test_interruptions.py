"""Whose end a pod's was, and who asked for it: on a real Job controller."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from alpaca_operator.api.contract import LABEL_MANAGED_BY, LABEL_UID
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.resources import JOBS, PODS
from tests.operator.kubelet import INTERRUPTED, Outcome
from tests.operator.process import OperatorProcess
from tests.operator.team import Team, conditions, ready

pytestmark = [pytest.mark.controlplane]

KILLED = Outcome(137, Reason.WORKLOAD_ERROR, "no last word")
ONCE = {"maxRestarts": 1, "maxInfraRestarts": 1}


@pytest.mark.parametrize("stop", [pytest.param(INTERRUPTED, id="saved"), pytest.param(KILLED, id="killed")])
async def test_held_and_let_go_again_and_again_a_job_has_no_restarts(
    running: OperatorProcess, team: Team, stop: Outcome
) -> None:
    team.kubelet.on_stop = stop
    await team.apply(failurePolicy=ONCE)
    for _ in range(4):
        await team.state("poet", "Starting", "Running")
        await team.set(suspend=True)
        await team.set(suspend=False)  # before the pod has stopped
        await team.gone_or_new()
    for _ in range(3):
        await team.state("poet", "Starting", "Running")
        await team.set(suspend=True)
        await team.state("poet", "Suspended")
        await team.set(suspend=False)
    job = await team.state("poet", "Starting", "Running")
    assert job["status"]["restarts"] == {"user": 0, "infra": 0, "total": 0}
    assert not job["status"].get("attempts")


@pytest.mark.parametrize("placed", [pytest.param(True, id="running"), pytest.param(False, id="never placed")])
@pytest.mark.parametrize("stop", [pytest.param(INTERRUPTED, id="saved"), pytest.param(KILLED, id="killed")])
async def test_a_queue_may_evict_a_job_as_often_as_it_likes(
    running: OperatorProcess, team: Team, stop: Outcome, placed: bool
) -> None:
    team.kubelet.on_stop = stop
    nowhere: dict[str, Any] = {} if placed else {"pod": {"nodeSelector": {"there": "none"}}}
    states = ("Starting", "Running") if placed else ("Unschedulable",)
    await team.apply(failurePolicy=ONCE, **nowhere)
    for _ in range(4):
        await team.state("poet", *states)
        await asyncio.sleep(1.1)  # Kubernetes stamps by the second: a pod is older than the run that follows it
        await team.suspend_child(True)
        await team.state("poet", "Queued")
        await team.quiet()
        await team.suspend_child(False)
    job = await team.state("poet", *states)
    assert job["status"].get("attempts", []) == []
    assert job["status"]["restarts"] == {"user": 0, "infra": 0, "total": 0}
    assert conditions(job)["Failed"] == "False"


async def test_what_is_labelled_as_ours_and_is_not_changes_nothing(running: OperatorProcess, team: Team) -> None:
    """A pod without an owner that has ended well, and a copy of the Job under another name, whose pod ends well too."""
    await team.apply()
    await team.state("poet", "Starting", "Running")
    child, [pod] = await team.child(), await team.pods()
    assert child is not None
    metadata = {"namespace": team.namespace, "labels": pod["metadata"]["labels"]}
    forged_labels = {name: label for name, label in metadata["labels"].items() if "/" in name and "batch" not in name}
    kept = ("securityContext", "containers", "automountServiceAccountToken", "restartPolicy")
    spec = {name: part for name, part in pod["spec"].items() if name in kept}
    spec["containers"] = [{**one, "volumeMounts": []} for one in spec["containers"]]
    forged = await team.kube.create(
        PODS,
        {
            **pod,
            "metadata": {**metadata, "name": "forged", "labels": forged_labels},
            "spec": {**spec, "nodeName": team.kubelet.node},
        },
    )
    owners = {"ownerReferences": child["metadata"]["ownerReferences"], "labels": child["metadata"]["labels"]}
    template = {"metadata": {"labels": forged_labels}, "spec": spec}
    await team.kube.create(
        JOBS,
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"namespace": team.namespace, "name": "poet-sft-copy", **owners},
            "spec": {"template": template, "backoffLimit": 0},
        },
    )
    await team.kubelet.end(forged, Outcome())
    async with asyncio.timeout(60):
        while len(pods := await team.pods()) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    [copy] = [one for one in pods if one["metadata"]["name"].startswith("poet-sft-copy")]
    await team.kubelet.end(copy, Outcome())
    await team.set(activeDeadlineSeconds=86400)
    job = await team.until("poet", lambda job: job["status"]["observedGeneration"] == 2, "looked at")
    assert ready(job)["reason"] in ("Starting", "Running")
    await team.kubelet.end(pod, Outcome(message="done"))
    job = await team.state("poet", "Succeeded")
    after = await team.child()
    assert after is not None
    assert after["metadata"]["uid"] == child["metadata"]["uid"]


@pytest.mark.parametrize("label", [LABEL_UID, LABEL_MANAGED_BY])
async def test_a_pod_of_ours_stays_ours_whatever_it_is_labelled(
    running: OperatorProcess, team: Team, label: str
) -> None:
    await team.apply()
    await team.state("poet", "Starting", "Running")
    [pod] = await team.pods()
    await team.kube.merge(PODS, pod, {"metadata": {"labels": {label: None}}})
    await team.kubelet.end(pod, Outcome(message="done", more={"metrics": {"evalLoss": 1.5}}))
    job = await team.state("poet", "Succeeded")
    assert job["status"]["metrics"] == {"evalLoss": 1.5}
