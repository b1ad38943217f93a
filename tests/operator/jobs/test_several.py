"""Several pods that train together: one attempt, one cause, one line."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from alpaca_operator.api import KINDS
from alpaca_operator.api.contract import LABEL_INDEX, Termination
from alpaca_operator.api.resource import Job
from alpaca_operator.api.status import Reason
from alpaca_operator.jobs import status
from alpaca_operator.outcomes.verdict import Desired
from tests.api.minimal import MINIMAL
from tests.operator.cases import CHECKPOINT, DONE, QUEUE, STARTED, TRAINING, observed, prior, ready, resource, true
from tests.operator.pods import at, ended, job, pod, running, stopped, unplaced

Object = dict[str, Any]

SET = "uid-set"
FIRST, SECOND = "uid-job-1", "uid-job-2"
LOST = Termination(
    reason=Reason.INTERRUPTED, exit_code=75, message="node 1 is gone without a word", checkpoint=CHECKPOINT
)
BAD_ROW = Termination(reason=Reason.INVALID_DATA, exit_code=65, message="poems.jsonl, row 7: no answer: drop the row")


def node(obj: Object, index: int, of: str = FIRST) -> Object:
    """The pod as that of a node, in the set's Job ``of``."""
    metadata = obj["metadata"]
    owner = {"kind": "Job", "name": "poet-sft-node-0", "uid": of, "controller": True}
    return {
        **obj,
        "metadata": {
            **metadata,
            "name": f"poet-sft-node-0-{index}-{of[-1]}",
            "uid": f"uid-{index}-{of[-1]}",
            "labels": {LABEL_INDEX: str(index)},
            "ownerReferences": [owner],
        },
    }


def up(index: int, of: str = FIRST, **more: Any) -> Object:
    made = node(running(**more), index, of)
    made["status"] = {**made["status"], "conditions": [{"type": "Ready", "status": "True"}]}
    return made


def jobset(
    condition: str = "", reason: str = "", *, nodes: int = 2, spec: Object | None = None, **metadata: Any
) -> Object:
    conditions = [{"type": condition, "status": "True", "reason": reason, "lastTransitionTime": at(90)}]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "poet-sft", "namespace": "poetry", "uid": SET, "creationTimestamp": at(0), **metadata},
        "spec": {
            "failurePolicy": {"maxRestarts": 3},
            "replicatedJobs": [{"template": {"spec": {"completions": nodes}}}],
            **(spec or {}),
        },
        "status": {"conditions": conditions if condition else []},
    }


def looked(*pods: Object, child: Object | None = None, jobs: tuple[Object, ...] = (), **more: Any) -> Any:
    return observed(*pods, child=child or jobset(), jobs=jobs, family=frozenset({FIRST, SECOND}), **more)


def told(
    *pods: Object, before: Object | None = None, nodes: int = 2, spec: Object | None = None, **more: Any
) -> Object:
    job = resource(before or prior(STARTED, "Running"), parallelism={"nodes": nodes}, **(spec or {}))
    return status.compute(job, looked(*pods, **{"child": jobset(nodes=nodes), **more}), None)


def test_all_run():
    after = told(up(0), up(1), progress=TRAINING)
    assert (ready(after)["reason"], ready(after)["message"]) == (
        "Running",
        "pod poet-sft-node-0-0-1 runs on node n1, 1 more with it",
    )
    assert after["nodes"] == {"ready": 2, "total": 2, "display": "2/2"}


def test_some_run_and_wait_for_the_others():
    after = told(up(0), node(pod(), 1), before=prior({}, "Pending"))
    assert (ready(after)["reason"], ready(after)["message"]) == (
        "Starting",
        "the first pods run, and wait for the others",
    )
    assert after["nodes"]["display"] == "1/2"


def test_that_some_run_is_no_news_while_the_others_follow():
    before = told(node(pod(), 0), node(pod(), 1), before=prior({}, "Pending"), after=5)
    some = told(up(0), node(pod(), 1), before=before, after=5)
    assert ready(some) == ready(before), "they began 5 s ago"
    later = told(up(0), node(pod(), 1), before=before, after=10)
    assert ready(later)["reason"] == "Starting"
    job = resource(before, parallelism={"nodes": 2})
    seen = looked(up(0), node(pod(), 1), after=5)
    assert status.requeue_after(job, seen) == timedelta(seconds=5)


def waits(*pods: Object, after: float, before: Object | None = None, nodes: int = 2, **more: Any) -> float | None:
    """Seconds that the status may wait."""
    job = resource(before, parallelism={"nodes": nodes})
    wait = status.may_wait(job, looked(*pods, child=jobset(nodes=nodes, **more), after=after))
    return wait and wait.total_seconds()


def test_the_first_status_waits_while_the_pods_come():
    coming = [node(pod(), 0), node(pod(), 1)]
    assert waits(after=1) == 44
    assert waits(*coming, after=12) == 33
    assert waits(*coming, after=45) is None
    assert waits(up(0), node(pod(), 1), after=2) == 43
    late = up(0)
    late["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] = at(40)
    assert waits(late, node(pod(), 1), after=44) == 6, "ten seconds from the first that runs"
    assert waits(up(0), up(1), after=2) is None, "all run"


def test_what_is_not_usual_is_told_at_once():
    full = unplaced("0/4 nodes are available: 4 Insufficient nvidia.com/gpu.")
    assert waits(node(full, 0), node(full, 1), after=2) is None
    assert waits(after=2, spec={"suspend": True}) is None, "a queue holds it"
    assert waits(node(ended(65, says=BAD_ROW, finished=1), 0), node(pod(), 1), after=2) is None
    assert waits(after=1, nodes=1) is None, "of one pod nothing is gathered"


def test_a_status_that_was_told_goes_on_to_tell():
    assert waits(after=1, before=prior({}, "Pending")) is None


def test_one_of_two_that_is_gone_while_they_train_is_told_at_once():
    after = told(up(0), node(pod(), 1), after=5)
    assert ready(after)["message"] == "the first pods run, and wait for the others"


def test_that_some_have_no_room_is_told_once_all_are_judged():
    full = unplaced("0/4 nodes are available: 4 Insufficient nvidia.com/gpu.")
    unjudged = node(pod(spec={"nodeName": ""}), 3)
    after = told(up(0), up(1), node(full, 2), unjudged, nodes=4, before=prior({}, "Pending"))
    assert ready(after)["reason"] == "Starting"


def test_how_many_have_no_room_and_what_they_lack():
    full = unplaced(
        "0/4 nodes are available: 4 Insufficient nvidia.com/gpu.", resources={"limits": {"nvidia.com/gpu": "8"}}
    )
    after = told(up(0), up(1), node(full, 2), node(full, 3), nodes=4, before=prior({}, "Pending"))
    assert ready(after)["reason"] == "Unschedulable"
    assert ready(after)["message"].startswith("2 of 4 nodes: no node fits a pod that asks for nvidia.com/gpu: 8")
    assert after["nodes"]["display"] == "2/4"


def test_one_has_failed_and_the_other_still_stops():
    after = told(node(ended(65, says=BAD_ROW), 1), up(0))
    assert ready(after)["reason"] == "Stopping"
    assert ready(after)["message"].endswith("(pod poet-sft-node-0-1-1, exit 65): 1 of 2 pods still stop")
    assert "attempts" not in after, "the last to end may know more"


@pytest.mark.parametrize(
    ("root", "collateral", "reason"),
    [
        pytest.param(
            ended(65, says=BAD_ROW, finished=61), ended(75, says=LOST, finished=60), "InvalidData", id="a bad row"
        ),
        pytest.param(ended(137, finished=61), ended(75, says=LOST, finished=60), "WorkloadError", id="killed"),
        pytest.param(
            ended(137, reason="OOMKilled", finished=61), ended(70, finished=60), "OutOfMemory", id="out of memory"
        ),
        pytest.param(
            ended(75, disrupted="EvictionByEvictionAPI", finished=61),
            ended(75, says=LOST, finished=60),
            "Disrupted",
            id="evicted",
        ),
        pytest.param(
            ended(143, disrupted="DeletionByTaintManager", finished=61),
            ended(70, finished=60),
            "Disrupted",
            id="a lost node",
        ),
        pytest.param(
            ended(65, says=BAD_ROW, finished=60), ended(65, says=BAD_ROW, finished=61), "InvalidData", id="the earliest"
        ),
    ],
)
def test_the_cause_is_whose_end_says_most_then_the_earliest(root, collateral, reason):
    after = told(node(collateral, 0), node(root, 1))
    [attempt] = after["attempts"]
    assert (attempt["reason"], attempt["pod"], attempt["uid"]) == (reason, "poet-sft-node-0-1-1", FIRST)


def test_an_attempt_of_two_pods_is_one_restart():
    after = told(node(ended(70), 0), node(ended(70, finished=61), 1))
    assert after["restarts"] == {"user": 1, "infra": 0, "total": 1}
    again = told(
        node(ended(70), 0),
        node(ended(70, finished=61), 1),
        up(0, SECOND),
        up(1, SECOND),
        before=after,
        progress=TRAINING,
    )
    assert (again["restarts"], ready(again)["reason"]) == ({"user": 1, "infra": 0, "total": 1}, "Running")


def test_what_is_never_tried_again_fails_the_job_and_the_set_ends_by_itself():
    before = told(node(ended(65, says=BAD_ROW), 0), node(ended(65, says=BAD_ROW), 1))
    assert true(before) == {"Stalled", "Failed"}
    job = resource(before, parallelism={"nodes": 2})
    assert status.desired(job, looked(node(ended(65, says=BAD_ROW), 0))) is Desired.UNCHANGED


def test_out_of_memory_ends_a_set_that_would_start_again():
    pods = [node(ended(137, reason="OOMKilled"), 0), node(ended(75, says=LOST), 1)]
    before = told(*pods)
    assert ready(before)["reason"] == "OutOfMemory"
    assert status.desired(resource(before, parallelism={"nodes": 2}), looked(*pods)) is Desired.STOPPED


def test_node_0_publishes():
    assert ready(told(node(ended(0, says=DONE), 0), up(1)))["reason"] == "Succeeded"
    assert ready(told(up(0), node(ended(0), 1)))["reason"] != "Succeeded"


def test_a_set_of_which_one_failed_after_the_output_was_published_is_stopped():
    pods = [node(ended(0, says=DONE), 0), node(ended(70), 1)]
    before = told(*pods)
    assert ready(before)["reason"] == "Succeeded"
    assert status.desired(resource(before, parallelism={"nodes": 2}), looked(*pods)) is Desired.STOPPED


def test_pods_stopped_by_a_queue_are_no_attempt():
    pods = [stopped(node(ended(75, says=LOST, finished=60), index), 50) for index in (0, 1)]
    queued = jobset(spec={"suspend": True}, labels=QUEUE)
    after = told(*pods, child=queued)
    assert "attempts" not in after
    assert ready(after)["reason"] == "Queued"
    assert "Kueue's queue gpus, then continues from the checkpoint at step 40" in ready(after)["message"]
    # Resumed: the same Job, started anew.
    job = {"kind": "Job", "metadata": {"uid": FIRST}, "spec": {}, "status": {"startTime": at(80)}}
    again = told(*pods, up(0, made=81), up(1, made=81), before=after, jobs=(job,), progress=TRAINING)
    assert "attempts" not in again
    assert again["restarts"]["total"] == 0
    # Or a new one: a pod's end was taken for the Job's failure, while that deleted it.
    resumed = jobset("Suspended", "ResumeJobs")
    resumed["status"]["conditions"][0] |= {"status": "False", "lastTransitionTime": at(80)}
    anew = {"kind": "Job", "metadata": {"uid": SECOND}, "spec": {}, "status": {"startTime": at(81)}}
    now = [up(0, SECOND, made=81), up(1, SECOND, made=81)]
    again = told(*pods, *now, child=resumed, before=after, jobs=(anew,), progress=TRAINING)
    assert "attempts" not in again
    assert again["restarts"]["total"] == 0
    # What fails afterwards is a failure.
    later = [stopped(node(ended(75, says=LOST, finished=95, made=81), index, SECOND), 90) for index in (0, 1)]
    again = told(*pods, *later, child=resumed, before=after, jobs=(anew,), progress=TRAINING)
    assert [one["uid"] for one in again["attempts"]] == [SECOND]


def test_the_deadline_is_the_operator_s_to_keep():
    spec = {"activeDeadlineSeconds": 60}
    job = resource(prior(STARTED, "Running"), parallelism={"nodes": 2}, **spec)
    early, late = looked(up(0), up(1), after=50), looked(up(0), up(1), after=61)
    assert status.desired(job, early) is Desired.PRESENT
    assert status.requeue_after(job, early).total_seconds() == 10
    assert status.desired(job, late) is Desired.STOPPED
    assert ready(told(up(0), up(1), spec=spec, after=61))["reason"] == "Stopping"
    gone = told(node(ended(75, finished=62), 0), node(ended(75, finished=62), 1), spec=spec, after=63)
    assert (ready(gone)["reason"], gone["restarts"]["total"]) == ("DeadlineExceeded", 0)


def test_an_old_set_s_pods_are_waited_for():
    stray = node(running(), 0, of="uid-job-of-another-set")
    after = told(stray, before=prior(STARTED, "ChildLost"))
    assert (ready(after)["reason"], "poet-sft-node-0-0-t" in ready(after)["message"]) == ("Stopping", True)


def test_the_controller_s_last_word_of_a_set():
    over = jobset("Failed", "ReachedMaxRestarts")
    after = told(node(ended(70), 0), node(ended(70), 1), child=over)
    assert ready(after)["reason"] == "RestartsExceeded"
    assert ready(told(child=jobset("Completed", "AllJobsCompleted")))["reason"] == "Succeeded"


FEWER = {"nodes": 4, "minNodes": 2, "rescaleAfterSeconds": 300}


def without_room(index: int, when: float = 20) -> Object:
    made = node(unplaced("0/2 nodes are available: 2 Insufficient nvidia.com/gpu."), index)
    (condition,) = made["status"]["conditions"]
    return {**made, "status": {**made["status"], "conditions": [{**condition, "lastTransitionTime": at(when)}]}}


def short(*pods: Object, before: Object | None = None, size: int = 4, **more: Any) -> tuple[Any, Any]:
    """The job, and what is seen of it."""
    job = resource(before or prior({}, "Unschedulable"), parallelism=FEWER, training={"gradientAccumulation": 3})
    return job, looked(*pods, **{"child": jobset(nodes=size), **more})


def test_without_room_for_all_fewer_go_on_once_it_has_lasted():
    pods = [up(0), up(1), up(2), without_room(3)]
    job, early = short(*pods, after=319)
    assert ready(status.compute(job, early, None))["reason"] == "Unschedulable"
    assert status.requeue_after(job, early).total_seconds() == 1
    job, late = short(*pods, after=320)
    assert status.desired(job, late) is Desired.PRESENT, "the status says so first"
    after = status.compute(job, late, None)
    assert after["nodes"] == {"ready": 3, "total": 3, "display": "3/3"}
    assert ready(after)["message"] == (
        "no room for 4 nodes in 300 s (parallelism.rescaleAfterSeconds): JobSet poet-sft is made anew with 3, and starts from the newest "
        "checkpoint, if there is one"
    )
    job, told_so = short(*pods, before=after, after=321)
    assert status.desired(job, told_so) is Desired.ABSENT
    assert status.compute(job, told_so, None)["nodes"]["total"] == 3
    job, gone = short(before=after, after=400)
    gone = replace(gone, child=None, family=frozenset())
    assert status.desired(job, gone) is Desired.PRESENT
    assert status.compute(job, gone, None)["nodes"]["total"] == 3
    assert job.size == 3


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if issubclass(kind, Job)])
def test_every_kind_waits_for_room(kind: str):
    """Also one whose `parallelism` is of another sort."""
    manifest = {"kind": kind, "metadata": {"name": "poet", "uid": "uid-poet"}, "spec": MINIMAL[kind]}
    waiting = observed(unplaced("0/2 nodes are available"), child=job())
    written = status.compute(KINDS[kind].model_validate(manifest), waiting, None)
    assert ready(written)["reason"] == "Unschedulable"


def test_fewer_run_and_say_so():
    before = prior({"nodes": {"ready": 3, "total": 3, "display": "3/3"}, **STARTED}, "Running")
    job, seen = short(up(0), up(1), up(2), before=before, size=3, progress=TRAINING)
    assert status.desired(job, seen) is Desired.PRESENT
    assert ready(status.compute(job, seen, None))["message"] == (
        "pod poet-sft-node-0-0-1 runs on node n1, 2 more with it (3 of 4 nodes: waits for room for more)"
    )


@pytest.mark.parametrize(
    ("pods", "why"),
    [
        pytest.param(
            [up(0), without_room(1), without_room(2), without_room(3)], "fewer than minNodes", id="room for one"
        ),
        pytest.param([up(0), up(1), without_room(2)], "one is not made yet", id="who knows how many find a place"),
        pytest.param([up(0), up(1), up(2), up(3)], "there is room", id="all run"),
    ],
)
def test_when_the_number_stays(pods, why):
    job, seen = short(*pods, after=1000)
    assert status.desired(job, seen) is Desired.PRESENT
    assert status.compute(job, seen, None)["nodes"]["total"] == 4, why


def test_a_queue_is_asked_for_one_node_less_each_time():
    held = jobset("Suspended", "SuspendedJobs", nodes=4, spec={"suspend": True}, labels=QUEUE)
    held["spec"]["replicatedJobs"] = jobset(nodes=4)["spec"]["replicatedJobs"]
    job, seen = short(child=held, after=389)
    assert ready(status.compute(job, seen, None))["reason"] == "Queued"
    job, seen = short(child=held, after=390)
    assert status.compute(job, seen, None)["nodes"]["total"] == 3


def test_held_and_resumed_all_are_asked_for_again():
    before = prior({"nodes": {"ready": 3, "total": 3, "display": "3/3"}, **STARTED}, "Stopping")
    job = resource(before, parallelism=FEWER, suspend=True)
    after = status.compute(job, replace(looked(), child=None), None)
    assert "nodes" not in after
