"""Training in Kueue's queues: who waits says so, who is preempted goes on where it was, and nobody's eviction is a failure."""

from __future__ import annotations

import pytest

from tests.cluster.bed.cluster import Manifest
from tests.cluster.bed.node import Bed
from tests.cluster.team import Team, ended, progress, ready, sft_job
from tests.cluster.test_disruption import STEPS, begins_after, weights

pytestmark = pytest.mark.cluster

QUEUE = "kueue.x-k8s.io/queue-name"
PRIORITY = "kueue.x-k8s.io/priority-class"
API = "kueue.x-k8s.io/v1beta2"


@pytest.fixture
def queue(kueue: Bed, mine: Team) -> str:
    """A queue with room for one training at a time, where a higher priority comes first. Its LocalQueue is named `training`."""
    name = mine.namespace
    quota = [{"name": "cpu", "nominalQuota": "300m"}, {"name": "memory", "nominalQuota": "64Gi"}]
    group = {"coveredResources": ["cpu", "memory"], "flavors": [{"name": name, "resources": quota}]}
    spec = {"namespaceSelector": {}, "resourceGroups": [group], "preemption": {"withinClusterQueue": "LowerPriority"}}
    mine.apply(
        {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": name}},
        {"apiVersion": API, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": spec},
        {"apiVersion": API, "kind": "LocalQueue", "metadata": {"name": "training"}, "spec": {"clusterQueue": name}},
        *(
            {"apiVersion": API, "kind": "WorkloadPriorityClass", "metadata": {"name": level}, "value": value}
            for level, value in (("patient", 10), ("urgent", 1000))
        ),
    )
    return name


def queued(name: str, priority: str, steps: int = STEPS) -> Manifest:
    job = sft_job(name, training={"maxSteps": steps, "saveSteps": 20}, failurePolicy={"maxRestarts": 0})
    job["metadata"]["labels"] = {QUEUE: "training", PRIORITY: priority}
    return job


def test_a_preempted_training_goes_on_where_it_was_and_counts_nothing(queue: str, mine: Team) -> None:
    mine.apply(queued("calm", "patient"))
    mine.at_step("calm", 1)

    mine.apply(queued("patient", "patient"))
    waits = mine.state("patient", "Queued")
    assert "Kueue's queue training" in ready(waits)["message"]
    assert mine.pods("patient") == [], "no pod before there is room"
    mine.state("calm", "Succeeded")

    mine.at_step("patient", 30)
    first = mine.pod("patient")
    mine.apply(queued("urgent", "urgent", 40))
    evicted = mine.until("patient", lambda job: ready(job)["reason"] == "Queued", "back in the queue")
    saved = evicted["status"]["checkpoint"]["step"]
    assert saved >= 30
    assert f"continues from the checkpoint at step {saved}" in ready(evicted)["message"]
    mine.state("urgent", "Succeeded")

    mine.until("patient", lambda job: mine.pods("patient") and mine.pod("patient") != first, "admitted again")
    assert begins_after(mine, mine.pod("patient")) == saved
    job = mine.until("patient", ended, "at its end")
    assert ready(job)["reason"] == "Succeeded"
    assert job["status"].get("restarts", {}).get("total", 0) == 0, "an eviction is scheduling, not a failure"
    assert progress(job) == STEPS
    assert weights(mine, "patient") == weights(mine, "calm")
