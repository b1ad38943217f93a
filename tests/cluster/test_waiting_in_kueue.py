"""Training in Kueue's queues: who waits says so, who is preempted goes on where it was, and nobody's eviction is a failure."""

from __future__ import annotations

import pytest

from alpaca_operator.api.contract import LABEL_INDEX, LABEL_SCOUT
from tests.cluster.bed.cluster import Manifest, until
from tests.cluster.bed.node import Bed
from tests.cluster.team import PATIENCE, Team, ended, progress, ready, sft_job
from tests.cluster.test_chat import chat
from tests.cluster.test_disruption import STEPS, begins_after, weights

pytestmark = pytest.mark.cluster

QUEUE = "kueue.x-k8s.io/queue-name"
PRIORITY = "kueue.x-k8s.io/priority-class"
API = "kueue.x-k8s.io/v1beta2"
SLOW = 3 * PATIENCE
LONG = 2000
"""Steps of a run that is still at work when it is given more room."""
PATIENT = 15
"""Seconds that a job waits for room before it goes on with fewer nodes: longer than Kueue takes to admit one that has some."""


@pytest.fixture
def queue(jobset: Bed, kueue: Bed, mine: Team, request: pytest.FixtureRequest) -> str:
    """A queue with room for one training at a time, or for so many pods as a test says, where a higher priority comes first. Its LocalQueue is
    named `training`."""
    name = mine.namespace
    mine.apply(
        *cluster_queue(name, getattr(request, "param", 1)),
        local_queue("training", name),
        *(
            {"apiVersion": API, "kind": "WorkloadPriorityClass", "metadata": {"name": level}, "value": value}
            for level, value in (("patient", 10), ("urgent", 1000))
        ),
    )
    return name


def cluster_queue(
    name: str, pods: int, *, flavor: Manifest | None = None, preemption: Manifest | None = None, **spec: object
) -> list[Manifest]:
    """A ClusterQueue with room for so many trainings, and its flavor."""
    quota = [{"name": "cpu", "nominalQuota": f"{300 * pods}m"}, {"name": "memory", "nominalQuota": "64Gi"}]
    used = (flavor or {}).get("metadata", {}).get("name", name)
    group = {"coveredResources": ["cpu", "memory"], "flavors": [{"name": used, "resources": quota}]}
    rules = {"withinClusterQueue": "LowerPriority", **(preemption or {})}
    spec = {"namespaceSelector": {}, "resourceGroups": [group], "preemption": rules, **spec}
    queue = {"apiVersion": API, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": spec}
    return [flavor or {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": name}}, queue]


def local_queue(name: str, cluster_queue: str) -> Manifest:
    return {
        "apiVersion": API,
        "kind": "LocalQueue",
        "metadata": {"name": name},
        "spec": {"clusterQueue": cluster_queue},
    }


def queued(name: str, priority: str, steps: int = STEPS, queue: str = "training") -> Manifest:
    job = sft_job(name, training={"maxSteps": steps, "saveSteps": 20}, failurePolicy={"maxRestarts": 0})
    job["metadata"]["labels"] = {QUEUE: queue, PRIORITY: priority}
    return job


def waits(team: Team, name: str, words: str) -> Manifest:
    """The job, once it says that it waits in a queue, and this."""
    return team.until(
        name,
        lambda job: ready(job).get("reason") == "Queued" and words in ready(job)["message"],
        f"waiting: {words}",
        SLOW,
    )


def workload(team: Team, name: str) -> Manifest:
    """What Kueue has made of the job's child."""
    (found,) = [
        one for one in team.bed.items("workloads", "-n", team.namespace) if f"-{name}-sft-" in one["metadata"]["name"]
    ]
    return found


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
    until(lambda: mine.pods("pair") == [], "both to go, though there was room for one", SLOW)
    mine.state("urgent", "Succeeded", seconds=SLOW)

    job = mine.until("pair", ended, "at its end", SLOW)
    assert ready(job)["reason"] == "Succeeded"
    assert job["status"]["restarts"]["total"] == 0
    assert weights(mine, "pair") == weights(mine, "calm")


@pytest.mark.drill
@pytest.mark.timeout(3600)
def test_with_quota_for_one_of_two_nodes_one_trains_and_with_more_it_grows(queue: str, mine: Team) -> None:
    """What looks for room waits in the same queue, and gives its place to the second node."""
    asks: dict[str, int] = {"nodes": 2, "processesPerNode": 1, "minNodes": 1, "rescaleAfterSeconds": PATIENT}
    grows = queued("grows", "patient", LONG)
    grows["spec"]["parallelism"] = asks
    mine.apply(grows)
    waits(mine, "grows", "Kueue's queue training")
    fewer = mine.until("grows", lambda job: "is made anew with 1" in ready(job)["message"], "to be made anew", SLOW)
    print(f"grows: {ready(fewer)['message']}")
    mine.until("grows", lambda job: "1 of 2 nodes: waits for room for more" in ready(job)["message"], "with one", SLOW)

    def scout() -> Manifest | None:
        """Waiting in the queue for what one node asks for."""
        found = mine.bed.items("jobs", "-n", mine.namespace, "-l", f"{LABEL_SCOUT}=true")
        waiting = (
            one for one in found if one["spec"].get("suspend") and one["metadata"]["labels"][QUEUE] == "training"
        )
        return next(waiting, None)

    until(scout, "what looks for room to wait in the queue", SLOW)
    mine.past_step("grows", 20, SLOW)
    assert len(mine.pods("grows")) == 1, "no pod of it is made before there is quota"
    mine.apply(*cluster_queue(queue, 2))
    more = mine.until("grows", lambda job: "there is room for 2 nodes" in ready(job)["message"], "to grow", SLOW)
    print(f"grows: {ready(more)['message']}")
    job = mine.until("grows", lambda job: ready(job)["message"].endswith("1 more with it"), "with two", SLOW)
    saved = job["status"]["checkpoint"]["step"]
    assert saved >= 20
    assert job["status"]["nodes"] == {"ready": 2, "total": 2, "display": "2/2", "grown": 1}
    scouts = ["jobs", "-n", mine.namespace, "-l", f"{LABEL_SCOUT}=true"]
    until(lambda: not mine.bed.items(*scouts), "what looked for room to go", SLOW)
    (first,) = (pod for pod in mine.pods("grows") if pod["metadata"]["labels"].get(LABEL_INDEX) == "0")
    name, words = first["metadata"]["name"], f"/checkpoint-{saved}, which 1 process(es) made"
    until(lambda: any(line.get("message", "").endswith(words) for line in mine.lines(name)), words, SLOW)
    job = mine.state("grows", "Succeeded", seconds=SLOW)
    assert job["status"]["restarts"]["total"] == 0
    assert progress(job) == LONG
    grown = losses(mine, name)
    assert min(grown) == saved + 1

    whole = queued("whole", "patient", LONG)
    whole["spec"]["parallelism"] = {"processesPerNode": 2}
    mine.apply(whole)
    mine.state("whole", "Succeeded", seconds=SLOW)
    calm = losses(mine, mine.pod("whole"))
    print(f"apart by at most {max(abs(grown[step] - calm[step]) for step in grown):.2g} nats in {len(grown)} steps")
    whole["metadata"]["name"] = "same"
    whole["spec"]["output"] = {"uri": "pvc://models/grows"}
    mine.apply(whole)
    mine.state("same", "Reused", seconds=SLOW)


def losses(team: Team, pod: str) -> dict[int, float]:
    """Of each step that a pod has logged."""
    return {
        line["step"]: line["loss"] for line in team.lines(pod) if line.get("stage") == "Training" and "loss" in line
    }


@pytest.mark.drill
def test_what_was_borrowed_is_given_back_and_the_training_goes_on_later(queue: str, mine: Team) -> None:
    """Two queues of one cohort: one has no quota of its own."""
    cohort, lender, borrower = {"cohortName": queue}, f"{queue}-lends", f"{queue}-borrows"
    flavor, lends = cluster_queue(lender, 1, preemption={"reclaimWithinCohort": "Any"}, **cohort)
    _, borrows = cluster_queue(borrower, 0, flavor=flavor, **cohort)
    mine.apply(flavor, lends, borrows, local_queue("lends", lender), local_queue("borrows", borrower))
    mine.apply(queued("guest", "urgent", queue="borrows"))
    mine.at_step("guest", 10, SLOW)
    mine.apply(queued("owner", "patient", 10, queue="lends"))
    evicted = waits(mine, "guest", "continues from the checkpoint at step ")
    saved = evicted["status"]["checkpoint"]["step"]
    assert saved >= 10
    mine.state("owner", "Succeeded", seconds=SLOW)
    job = mine.until("guest", ended, "at its end", SLOW)
    assert (ready(job)["reason"], job["status"].get("restarts", {}).get("total", 0)) == ("Succeeded", 0)


@pytest.mark.drill
@pytest.mark.timeout(3600)
def test_a_queue_that_is_paused_lets_nobody_in_and_when_it_is_drained_trainings_save(queue: str, mine: Team) -> None:
    def policy(value: str) -> None:
        mine.apply(*cluster_queue(queue, 1, stopPolicy=value))

    policy("Hold")
    mine.apply(queued("poet", "patient"))
    held = mine.until("poet", lambda job: "inactive" in ready(job).get("message", ""), "told that it is paused", SLOW)
    print(f"\nheld: {ready(held)['reason']}: {ready(held)['message']}")
    assert ready(held)["reason"] == "Queued"
    assert mine.pods("poet") == []
    policy("None")
    mine.at_step("poet", 30, SLOW)
    first = mine.pod("poet")
    policy("HoldAndDrain")
    drained = waits(mine, "poet", "continues from the checkpoint at step ")
    print(f"drained: {ready(drained)['message']}")
    saved = drained["status"]["checkpoint"]["step"]
    assert saved >= 30
    until(lambda: mine.pods("poet") == [], "the pod to go", SLOW)
    policy("None")
    mine.until("poet", lambda job: mine.pods("poet") and mine.pod("poet") != first, "admitted again", SLOW)
    assert begins_after(mine, mine.pod("poet")) == saved
    job = mine.until("poet", ended, "at its end", SLOW)
    assert (ready(job)["reason"], job["status"].get("restarts", {}).get("total", 0)) == ("Succeeded", 0)
    assert progress(job) == STEPS


@pytest.mark.drill
def test_a_namespace_has_a_default_queue_and_a_waiting_job_may_change_to_another(queue: str, mine: Team) -> None:
    mine.apply(*cluster_queue(f"{queue}-full", 0), local_queue("default", f"{queue}-full"))
    job = queued("poet", "patient", 10)
    del job["metadata"]["labels"][QUEUE]
    mine.apply(job)
    waits(mine, "poet", "waits for room in Kueue's queue default")
    assert mine.pods("poet") == []
    mine.kubectl("label", "sftjob/poet", f"{QUEUE}=training")
    mine.state("poet", "Succeeded", seconds=SLOW)
    assert mine.bed.get("job", "poet-sft", "-n", mine.namespace)["metadata"]["labels"][QUEUE] == "training"


@pytest.mark.drill
def test_a_request_for_a_topology_reaches_kueue(queue: str, mine: Team) -> None:
    host, name = "kubernetes.io/hostname", f"{queue}-racks"
    topology = {
        "apiVersion": API,
        "kind": "Topology",
        "metadata": {"name": name},
        "spec": {"levels": [{"nodeLabel": host}]},
    }
    flavor = {
        "apiVersion": API,
        "kind": "ResourceFlavor",
        "metadata": {"name": name},
        "spec": {"nodeLabels": {"kubernetes.io/os": "linux"}, "topologyName": name},
    }
    mine.apply(topology, *cluster_queue(name, 1, flavor=flavor), local_queue("racks", name))
    job = queued("poet", "patient", 10, queue="racks")
    job["metadata"]["annotations"] = {"kueue.x-k8s.io/podset-required-topology": host}
    mine.apply(job)
    mine.state("poet", "Succeeded", seconds=SLOW)
    seen = workload(mine, "poet")
    (asked,) = seen["spec"]["podSets"]
    assert asked["topologyRequest"]["required"] == host
    (given,) = seen["status"]["admission"]["podSetAssignments"]
    assert given["topologyAssignment"]["levels"] == [host]


@pytest.mark.drill
def test_a_chat_waits_for_quota_as_a_job_does(queue: str, mine: Team) -> None:
    mine.apply(queued("first", "patient", 60))
    mine.at_step("first", 1, SLOW)
    talk = chat("talk", model={"uri": "pvc://models/tiny", "from": None}, auth=None)
    talk["metadata"]["labels"] = {QUEUE: "training", PRIORITY: "patient"}
    mine.apply(talk)

    def held() -> bool:
        pods = mine.bed.items("pods", "-n", mine.namespace, "-l", "literary-alpaca.io/name=talk")
        return [bool(pod["spec"].get("schedulingGates")) for pod in pods] == [True]

    until(held, "its pod to be held by Kueue", SLOW)
    mine.state("first", "Succeeded", seconds=SLOW)
    until(lambda: ready(found(mine, "talk")).get("reason") == "Serving", "talk to serve", SLOW)


def found(team: Team, name: str) -> Manifest:
    return team.bed.get("chatdeployment", name, "-n", team.namespace)


@pytest.mark.drill
def test_while_kueue_is_down_what_runs_goes_on_and_what_comes_says_what_it_waits_for(queue: str, mine: Team) -> None:
    mine.apply(queued("running", "patient", 100))
    mine.at_step("running", 1, SLOW)
    mine.apply(queued("waiting", "patient", 10))
    waits(mine, "waiting", "waits for room in Kueue's queue training")
    scale = ("scale", "deployment/kueue-controller-manager", "-n", "kueue-system")
    mine.bed.kubectl(*scale, "--replicas=0")
    try:
        until(lambda: not mine.bed.items("pods", "-n", "kueue-system"), "Kueue to be down", SLOW)
        mine.apply(queued("late", "patient", 10))
        mine.until("late", lambda job: "kueue" in ready(job).get("message", "").lower(), "told what it waits for", SLOW)
        print(f"late: {ready(mine.job('late'))['reason']}: {ready(mine.job('late'))['message']}")
        mine.state("running", "Succeeded", seconds=SLOW)
        assert ready(mine.job("waiting"))["reason"] == "Queued"
    finally:
        mine.bed.kubectl(*scale, "--replicas=1")
    for name in ("waiting", "late"):
        mine.state(name, "Succeeded", seconds=SLOW)
