"""Training in Kueue's queues: who waits says so, who is preempted goes on where it was, and nobody's eviction is a failure."""

from __future__ import annotations

import pytest

from tests.cluster.bed.cluster import Manifest
from tests.cluster.bed.node import Bed
from tests.cluster.team import PATIENCE, Team, ended, progress, ready, sft_job
from tests.cluster.test_disruption import STEPS, begins_after, weights

pytestmark = pytest.mark.cluster

QUEUE = "kueue.x-k8s.io/queue-name"
PRIORITY = "kueue.x-k8s.io/priority-class"
API = "kueue.x-k8s.io/v1beta2"
SLOW = 3 * PATIENCE


@pytest.fixture
def queue(jobset: Bed, kueue: Bed, mine: Team, request: pytest.FixtureRequest) -> str:
    """A queue with room for one training at a time, or for so many pods as a test says, where a higher priority comes first. Its LocalQueue is
    named `training`."""
    name = mine.namespace
    pods = getattr(request, "param", 1)
    quota = [{"name": "cpu", "nominalQuota": f"{300 * pods}m"}, {"name": "memory", "nominalQuota": "64Gi"}]
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
    mine.until("patient", lambda job: "insufficient unused quota for cpu" in ready(job)["message"], "told why", SLOW)
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


@pytest.mark.drill
@pytest.mark.parametrize("queue", [2], indirect=True)
def test_two_nodes_are_admitted_and_preempted_as_a_whole(queue: str, mine: Team) -> None:
    calm = queued("calm", "patient")
    calm["spec"]["parallelism"] = {"processesPerNode": 2}
    mine.apply(calm)
    mine.state("calm", "Succeeded", seconds=SLOW)

    pair = queued("pair", "patient")
    pair["spec"]["parallelism"] = {"nodes": 2, "processesPerNode": 1}
    mine.apply(pair)
    mine.at_step("pair", 30, SLOW)
    before = {pod["metadata"]["uid"] for pod in mine.pods("pair")}
    assert len(before) == 2
    mine.apply(queued("urgent", "urgent", 40))
    evicted = mine.until("pair", lambda job: ready(job)["reason"] == "Queued", "back in the queue", SLOW)
    saved = evicted["status"]["checkpoint"]["step"]
    assert saved >= 30
    assert mine.pods("pair") == [], "both went, though there was room for one"
    mine.state("urgent", "Succeeded", seconds=SLOW)

    job = mine.until("pair", ended, "at its end", SLOW)
    assert ready(job)["reason"] == "Succeeded"
    assert job["status"]["restarts"]["total"] == 0
    assert weights(mine, "pair") == weights(mine, "calm")
