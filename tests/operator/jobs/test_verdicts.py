"""Where a resource stands: the reason and the line of every situation, and how attempts are counted."""

from __future__ import annotations

import pytest

from alpaca_operator.api.contract import Progress, Termination
from alpaca_operator.api.status import Reason, Status
from alpaca_operator.exits import Refused, Waiting
from alpaca_operator.jobs import status
from alpaca_operator.outcomes.conditions import Change, change
from alpaca_operator.outcomes.observed import QueueWords
from tests.operator.cases import (
    BAD_ROW,
    DONE,
    EVICTED,
    HANG,
    OUTPUT,
    QUEUE,
    STARTED,
    TRAINING,
    crashed,
    observed,
    prior,
    ready,
    resource,
    true,
)
from tests.operator.pods import RUNS, at, beside, ended, job, pod, running, stopped, unplaced, waiting

DUE = job(started=at(0), spec={"activeDeadlineSeconds": 60})
"""A Job that has had its time at the sixtieth second."""

WORKING, HELD, STUCK, WELL, FAILED = (
    {"Reconciling"},
    {"Suspended"},
    {"Stalled"},
    {"Ready", "Complete"},
    {"Stalled", "Failed"},
)

SITUATIONS = [
    pytest.param(
        resource(prior(STARTED, "Running")),
        observed(beside(ended(0, says=DONE), RUNS, phase="Running"), child=job()),
        WELL,
        "Succeeded",
        "published pvc://models/poet",
        id="done, whatever a proxy beside it does",
    ),
    pytest.param(resource(), observed(), WORKING, "Pending", "waits for its pod to start", id="new"),
    pytest.param(
        resource(), observed(child=job()), WORKING, "Pending", "waits for its pod to start", id="its Job is made"
    ),
    pytest.param(
        resource(), observed(pod(), child=job()), WORKING, "Pending", "waits for its pod to start", id="its pod is made"
    ),
    pytest.param(
        resource(labels=QUEUE),
        observed(child=job(spec={"suspend": True})),
        WORKING,
        "Queued",
        "waits for room in Kueue's queue gpus: kubectl get workloads shows its place",
        id="Kueue has not admitted it",
    ),
    pytest.param(
        resource(labels=QUEUE),
        observed(child=job(spec={"suspend": True}), queue=QueueWords(why="insufficient unused quota for cpu", place=3)),
        WORKING,
        "Queued",
        "waits for room in Kueue's queue gpus, at place 3: insufficient unused quota for cpu",
        id="Kueue says why, and where it stands",
    ),
    pytest.param(
        resource(labels=QUEUE),
        observed(child=job(spec={"suspend": True}), queue=QueueWords(known=False)),
        WORKING,
        "Queued",
        "Kueue has not taken it up yet: see whether its controller runs, and whether it manages Jobs in queue gpus",
        id="Kueue is away",
    ),
    pytest.param(
        resource(prior(STARTED, "Running"), labels=QUEUE),
        observed(
            running(),
            child=job(spec={"suspend": True}),
            queue=QueueWords(evicted="Preempted to accommodate a workload."),
        ),
        WORKING,
        "Stopping",
        "Kueue's queue gpus wants its place back (Preempted to accommodate a workload): pod poet-sft-a stops, a running step is saved first",
        id="Kueue says why it preempts it",
    ),
    pytest.param(
        resource(prior(STARTED, "Running", checkpoint={"uri": "x", "step": 40}), labels=QUEUE),
        observed(child=job(spec={"suspend": True})),
        WORKING,
        "Queued",
        "waits for room in Kueue's queue gpus, then continues from the checkpoint at step 40",
        id="Kueue preempted it",
    ),
    pytest.param(
        resource(),
        observed(child=job(spec={"suspend": True}, labels=QUEUE)),
        WORKING,
        "Queued",
        "waits for room in Kueue's queue gpus: kubectl get workloads shows its place",
        id="Kueue put its Job into the namespace's default queue",
    ),
    pytest.param(
        resource(),
        observed(child=job(spec={"suspend": True})),
        WORKING,
        "Queued",
        "its Job poet-sft was suspended by someone else: set spec.suspend of the Job to false",
        id="someone suspended its Job",
    ),
    pytest.param(
        resource(),
        observed(running(), child=job()),
        WORKING,
        "Starting",
        "pod poet-sft-a on node n1 loads model and data",
        id="its pod runs",
    ),
    pytest.param(
        resource(prior(STARTED, "Starting")),
        observed(running(), child=job(), answers_foul=True),
        WORKING,
        "Running",
        "pod poet-sft-a runs on node n1; how far it is cannot be told, as what it answers at /progress is nothing that a workload of this "
        "version does: give pod.image the operator's version, or see kubectl logs -n poetry poet-sft-a",
        id="its pod runs, and answers garbage",
    ),
    pytest.param(
        resource(prior(STARTED, "Starting")),
        observed(running(), child=job(), progress=TRAINING, answers_foul=True),
        WORKING,
        "Running",
        "pod poet-sft-a runs on node n1",
        id="it answers garbage, and its log tells steps",
    ),
    pytest.param(
        resource(prior(STARTED, "Starting")),
        observed(running(), child=job(), progress=Progress(stage="Preparing")),
        WORKING,
        "Starting",
        "pod poet-sft-a on node n1 loads model and data",
        id="tokenising is not running",
    ),
    pytest.param(
        resource(prior(STARTED, "Starting")),
        observed(running(), child=job(), progress=TRAINING),
        WORKING,
        "Running",
        "pod poet-sft-a runs on node n1",
        id="steps are made",
    ),
    pytest.param(
        resource(prior(STARTED, "Running")),
        observed(running(), child=job()),
        WORKING,
        "Running",
        "pod poet-sft-a runs on node n1",
        id="a pod that cannot be asked for its progress still runs",
    ),
    pytest.param(
        resource(),
        observed(unplaced('persistentvolumeclaim "data" not found'), child=job()),
        WORKING,
        "VolumeNotReady",
        "PersistentVolumeClaim data does not exist in namespace poetry: create it, or name another claim in pvc:// (pod poet-sft-a)",
        id="a claim is missing",
    ),
    pytest.param(
        resource(),
        observed(waiting("ErrImagePull", "not found", image="x:1"), child=job()),
        WORKING,
        "ImageNotPullable",
        "image x:1 cannot be pulled: the registry has no such image: correct pod.image (pod poet-sft-a)",
        id="its image is missing",
    ),
    pytest.param(
        resource(),
        observed(child=job(), refusal=Waiting(Reason.QUOTA_EXCEEDED, "quota gpus has no room")),
        WORKING,
        "QuotaExceeded",
        "quota gpus has no room",
        id="a quota that refuses the pod may have room later",
    ),
    pytest.param(
        resource(),
        observed(child=job(), refusal=Refused(Reason.ADMISSION_REFUSED, "policy images refuses the pod")),
        STUCK,
        "AdmissionRefused",
        "policy images refuses the pod",
        id="a policy that refuses the pod waits for a person",
    ),
    pytest.param(
        resource(prior(STARTED, "Running")),
        observed(running(metadata={"deletionTimestamp": at(700)}), child=job()),
        WORKING,
        "Stopping",
        "pod poet-sft-a was told to stop; a running step is saved first",
        id="its pod is being evicted",
    ),
    pytest.param(
        resource(prior(STARTED, "Running"), labels=QUEUE),
        observed(running(), child=job(spec={"suspend": True})),
        WORKING,
        "Stopping",
        "Kueue's queue gpus wants its place back: pod poet-sft-a stops, a running step is saved first",
        id="Kueue preempts it, and its pod saves",
    ),
    pytest.param(
        resource(prior(STARTED, "Running")),
        observed(ended(75, disrupted="EvictionByEvictionAPI"), child=job()),
        WORKING,
        "Restarting",
        "evicted from node n1, as when a node is drained; a checkpoint was saved (pod poet-sft-a, exit 75); the next pod starts from the "
        "newest checkpoint, if there is one (restart 1 of 10, failurePolicy.maxInfraRestarts)",
        id="its pod was evicted",
    ),
    pytest.param(
        resource(prior(STARTED, "Running")),
        observed(ended(72, says=HANG), child=job()),
        WORKING,
        "Restarting",
        "no step for 1800 s (pod poet-sft-a, exit 72); the next pod continues from the checkpoint at step 40 (restart 1 of 3, "
        "failurePolicy.maxRestarts)",
        id="it hung",
    ),
    pytest.param(
        resource(prior(STARTED, "Restarting")),
        observed(ended(72, says=HANG), pod("poet-sft-b", made=70), child=job()),
        WORKING,
        "Restarting",
        "no step for 1800 s (pod poet-sft-a, exit 72); the next pod continues from the checkpoint at step 40 (restart 1 of 3, "
        "failurePolicy.maxRestarts)",
        id="the next pod is made",
    ),
    pytest.param(
        resource(prior(STARTED, "Restarting", attempts=[EVICTED])),
        observed(pod("poet-sft-b", made=70), child=job(creationTimestamp=at(0))),
        WORKING,
        "Restarting",
        "evicted (pod poet-sft-a, exit 75); the next pod starts from the newest checkpoint, if there is one (restart 0 of 10, "
        "failurePolicy.maxInfraRestarts)",
        id="an evicted pod is gone before the next one runs",
    ),
    pytest.param(
        resource(prior(STARTED, "Stopping", attempts=[EVICTED])),
        observed(pod("poet-sft-c", made=170), child=job(creationTimestamp=at(0))),
        WORKING,
        "Pending",
        "waits for its pod to start",
        id="a second pod was evicted, and is gone, while nobody looked",
    ),
    pytest.param(
        resource(prior(STARTED, "Suspended", attempts=[EVICTED])),
        observed(pod("poet-sft-b", made=170), child=job(creationTimestamp=at(160))),
        WORKING,
        "Pending",
        "waits for its pod to start",
        id="attempts from before it was suspended are past",
    ),
    pytest.param(
        resource(prior(STARTED, "Restarting")),
        observed(ended(72, says=HANG), running("poet-sft-b", made=70), child=job()),
        WORKING,
        "Starting",
        "pod poet-sft-b on node n1 loads model and data",
        id="the next pod has taken over",
    ),
    pytest.param(
        resource(prior(STARTED, "Running")),
        observed(),
        WORKING,
        "ChildLost",
        "its Job was deleted by someone else and is made again; it starts from the newest checkpoint, if there is one",
        id="someone deleted its Job",
    ),
    pytest.param(
        resource(prior(STARTED, "Running")),
        observed(running(), child=job(deletionTimestamp=at(90))),
        WORKING,
        "Stopping",
        "waits for Job poet-sft to stop, then starts from the newest checkpoint, if there is one",
        id="someone is deleting its Job",
    ),
    pytest.param(
        resource(prior(STARTED, "Suspended")),
        observed(running(of="uid-of-an-earlier-job")),
        WORKING,
        "Stopping",
        "waits for pod poet-sft-a to stop, then starts from the newest checkpoint, if there is one",
        id="a pod of an earlier Job still saves",
    ),
    pytest.param(
        resource(suspend=True),
        observed(),
        HELD,
        "Suspended",
        "held by spec.suspend: set it to false to start",
        id="made suspended",
    ),
    pytest.param(
        resource(prior(STARTED, "Running"), suspend=True),
        observed(running(), child=job()),
        WORKING,
        "Stopping",
        "spec.suspend is true: pod poet-sft-a stops, a running step is saved first",
        id="being suspended",
    ),
    pytest.param(
        resource(prior(STARTED, "Stopping", checkpoint={"uri": "x", "step": 40}), suspend=True),
        observed(ended(75)),
        HELD,
        "Suspended",
        "held by spec.suspend; set to false, it continues from the checkpoint at step 40",
        id="suspended in mid-training",
    ),
    pytest.param(
        resource(prior(STARTED, "Running")),
        observed(ended(0, says=DONE), child=job()),
        WELL,
        "Succeeded",
        "published pvc://models/poet",
        id="its pod ended well",
    ),
    pytest.param(
        resource(prior(STARTED, "Running")),
        observed(child=job(condition="Complete")),
        WELL,
        "Succeeded",
        "published pvc://models/poet",
        id="its Job is complete and the pod is gone",
    ),
    pytest.param(
        resource(prior(STARTED, "Running"), suspend=True),
        observed(ended(0, says=DONE)),
        WELL,
        "Succeeded",
        "published pvc://models/poet",
        id="suspended in the moment it ended well",
    ),
    pytest.param(
        resource(prior(STARTED, "Starting")),
        observed(ended(0, says=Termination(reason=Reason.REUSED, output=OUTPUT)), child=job()),
        WELL,
        "Reused",
        "pvc://models/poet already holds the result of the same spec and inputs: nothing was run",
        id="the output was there",
    ),
    pytest.param(
        resource(prior(STARTED, "Starting")),
        observed(ended(65, says=BAD_ROW), child=job()),
        FAILED,
        "InvalidData",
        "poems.jsonl, row 7: no answer: drop the row (pod poet-sft-a, exit 65)",
        id="a bad row ends it at once",
    ),
    pytest.param(
        resource(prior(STARTED, "Running")),
        observed(ended(137, reason="OOMKilled", resources={"limits": {"memory": "16Gi"}}), child=job()),
        FAILED,
        "OutOfMemory",
        "out of memory at the limit of 16Gi: raise pod.resources.limits.memory (it includes /dev/shm), or make the batch smaller "
        "(pod poet-sft-a, exit 137)",
        id="out of memory ends it at once",
    ),
    pytest.param(
        resource(prior(STARTED, "Running")),
        observed(ended(137, reason="OOMKilled"), running("poet-sft-b", made=70), child=job()),
        FAILED,
        "OutOfMemory",
        "the node ran out of memory: set pod.resources.requests.memory and limits.memory to what the job needs (pod poet-sft-a, exit 137)",
        id="out of memory ends it, although the Job controller has made another pod meanwhile",
    ),
    pytest.param(
        resource(prior(STARTED, "Restarting"), failurePolicy={"maxRestarts": 1}),
        observed(
            crashed("poet-sft-a", 10),
            crashed("poet-sft-b", 40),
            child=job(condition="Failed", reason="BackoffLimitExceeded"),
        ),
        FAILED,
        "RestartsExceeded",
        "gave up after 1 restart (failurePolicy.maxRestarts), the last: boom (pod poet-sft-b, exit 70)",
        id="its restarts are used up",
    ),
    pytest.param(
        resource(prior(STARTED, "Restarting"), failurePolicy={"maxRestarts": 1}),
        observed(crashed("poet-sft-a", 10), crashed("poet-sft-b", 40), child=job(spec={"backoffLimit": 1})),
        FAILED,
        "RestartsExceeded",
        "gave up after 1 restart (failurePolicy.maxRestarts), the last: boom (pod poet-sft-b, exit 70)",
        id="its restarts are used up, and the Job controller has not noticed",
    ),
    pytest.param(
        resource(prior(STARTED, "Running"), failurePolicy={"maxRestarts": 1}),
        observed(
            crashed("poet-sft-a", 10),
            ended(75, "poet-sft-b", disrupted="EvictionByEvictionAPI", finished=40),
            child=job(spec={"backoffLimit": 1}),
        ),
        WORKING,
        "Restarting",
        "evicted from node n1, as when a node is drained; a checkpoint was saved (pod poet-sft-b, exit 75); the next pod starts from the "
        "newest checkpoint, if there is one (restart 1 of 10, failurePolicy.maxInfraRestarts)",
        id="a disruption uses up no restart",
    ),
    pytest.param(
        resource(prior(STARTED, "Running"), failurePolicy={"maxRestarts": 0}),
        observed(crashed("poet-sft-a", 10), child=job(condition="Failed", reason="BackoffLimitExceeded")),
        FAILED,
        "WorkloadError",
        "boom (pod poet-sft-a, exit 70)",
        id="without restarts the cause is the reason",
    ),
    pytest.param(
        resource(
            prior(STARTED, "Running", restarts={"user": 0, "infra": 1, "total": 1}),
            failurePolicy={"maxInfraRestarts": 1},
        ),
        observed(ended(75, disrupted="PreemptionByScheduler"), child=job()),
        FAILED,
        "RestartsExceeded",
        "gave up after 1 restart by disruption (failurePolicy.maxInfraRestarts), the last: preempted on node n1 by a pod of higher "
        "priority; a pod.priorityClassName may prevent that; a checkpoint was saved (pod poet-sft-a, exit 75). A job of another name with "
        "the same output starts from the newest checkpoint, if there is one",
        id="too many disruptions",
    ),
    pytest.param(
        resource(prior(STARTED, "Running", checkpoint={"uri": "x", "step": 40}), activeDeadlineSeconds=60),
        observed(ended(75), child=job(condition="Failed", reason="DeadlineExceeded")),
        FAILED,
        "DeadlineExceeded",
        "still running after activeDeadlineSeconds (60 s): a job of another name with a longer one and the same output continues from the "
        "checkpoint at step 40",
        id="its deadline passed",
    ),
    pytest.param(
        resource(prior(STARTED, "Running", checkpoint={"uri": "x", "step": 40}), activeDeadlineSeconds=60),
        observed(stopped(ended(75), 61), child=DUE),
        FAILED,
        "DeadlineExceeded",
        "still running after activeDeadlineSeconds (60 s): a job of another name with a longer one and the same output continues from the "
        "checkpoint at step 40",
        id="its deadline passed, and its pod has saved before the controller says so",
    ),
    pytest.param(
        resource(prior(STARTED, "Running", checkpoint={"uri": "x", "step": 40}), activeDeadlineSeconds=60),
        observed(stopped(running(), 61), child=DUE),
        WORKING,
        "Stopping",
        "still running after activeDeadlineSeconds (60 s): pod poet-sft-a stops, a running step is saved first",
        id="its deadline passed, and its pod saves before the controller says so",
    ),
    pytest.param(
        resource(prior(STARTED, "Running"), activeDeadlineSeconds=60),
        observed(running(), child=job(condition="FailureTarget", reason="DeadlineExceeded")),
        WORKING,
        "Stopping",
        "still running after activeDeadlineSeconds (60 s): pod poet-sft-a stops, a running step is saved first",
        id="its deadline passed, and its pod still saves",
    ),
    pytest.param(
        resource(prior(STARTED, "Running"), activeDeadlineSeconds=60),
        observed(ended(137), child=job(condition="FailureTarget", reason="DeadlineExceeded")),
        FAILED,
        "DeadlineExceeded",
        "still running after activeDeadlineSeconds (60 s): a job of another name with a longer one and the same output starts from the "
        "newest checkpoint, if there is one",
        id="its deadline passed, and its pod was killed",
    ),
    pytest.param(
        resource(prior(STARTED, "Running"), activeDeadlineSeconds=60),
        observed(
            running(metadata={"deletionTimestamp": at(700)}),
            child=job(condition="FailureTarget", reason="DeadlineExceeded"),
        ),
        WORKING,
        "Stopping",
        "still running after activeDeadlineSeconds (60 s): pod poet-sft-a stops, a running step is saved first",
        id="its deadline passed, and its pod still saves",
    ),
    pytest.param(
        resource(prior(STARTED, "Running"), activeDeadlineSeconds=60),
        observed(ended(75), child=job(condition="FailureTarget", reason="DeadlineExceeded")),
        FAILED,
        "DeadlineExceeded",
        "still running after activeDeadlineSeconds (60 s): a job of another name with a longer one and the same output starts from the "
        "newest checkpoint, if there is one",
        id="its deadline passed, and its pod has saved",
    ),
    pytest.param(
        resource(prior(STARTED, "Running"), failurePolicy={"maxRestarts": 0}),
        observed(ended(72, says=HANG), child=job(spec={"backoffLimit": 0})),
        FAILED,
        "Hung",
        "no step for 1800 s (pod poet-sft-a, exit 72)",
        id="without restarts a failure ends it before the Job controller says so",
    ),
    pytest.param(
        resource(prior(STARTED, "Restarting"), failurePolicy={"maxRestarts": 1}),
        observed(crashed("poet-sft-a", 10), crashed("poet-sft-b", 40), child=job(spec={"backoffLimit": 1})),
        FAILED,
        "RestartsExceeded",
        "gave up after 1 restart (failurePolicy.maxRestarts), the last: boom (pod poet-sft-b, exit 70)",
        id="so does the failure after the last restart",
    ),
    pytest.param(
        resource(prior(STARTED, "Restarting"), failurePolicy={"maxRestarts": 1}),
        observed(crashed("poet-sft-a", 10), ended(75, "poet-sft-b", finished=40), child=job(spec={"backoffLimit": 1})),
        WORKING,
        "Restarting",
        "stopped from outside after saving a checkpoint: see kubectl logs -n poetry poet-sft-b (pod poet-sft-b, exit 75); the next pod "
        "starts from the newest checkpoint, if there is one (restart 1 of 10, failurePolicy.maxInfraRestarts)",
        id="a pod that was stopped does not count towards them",
    ),
    pytest.param(
        resource(prior(STARTED, "Running")),
        observed(child=job(condition="Failed", reason="PodFailurePolicy")),
        FAILED,
        "WorkloadError",
        "its Job failed and left no pod to ask (PodFailurePolicy: )",
        id="its Job failed while nobody looked, and the pod is gone",
    ),
]


@pytest.mark.parametrize(("given", "cluster", "conditions", "reason", "message"), SITUATIONS)
def test_a_situation(given, cluster, conditions, reason, message):
    written = status.compute(given, cluster, None)
    assert (ready(written)["reason"], ready(written)["message"]) == (reason, message)
    assert true(written) == conditions
    assert written["observedGeneration"] == 2
    for condition in written["conditions"]:
        assert condition["observedGeneration"] == 2
        if condition["status"] == "True" and condition["type"] != "InputsReady":
            assert condition["message"] == message
    final = conditions in (WELL, FAILED)
    assert ("completionTime" in written) == final
    assert status.is_final(written) == final
    again = resource(
        written, suspend=given.spec.suspend, failurePolicy=given.spec.failure_policy.model_dump(by_alias=True)
    )
    again = again.model_copy(update={"metadata": given.metadata, "spec": given.spec})
    if ready(written)["reason"] != "ChildLost":  # told once: by the next look the child is there
        assert status.compute(again, cluster, None) == written, "looking twice changes nothing"
        assert change(written, status.compute(again, cluster, None), Status) is Change.NOTHING


class TestRestarts:
    def test_errors_and_disruptions_are_counted_apart(self):
        cluster = observed(
            crashed("poet-sft-a", 10),
            ended(75, "poet-sft-b", finished=20),
            crashed("poet-sft-c", 30),
            running("d", made=31),
            child=job(),
        )
        written = status.compute(resource(), cluster, None)
        assert written["restarts"] == {"user": 2, "infra": 1, "total": 3}
        assert [(one["pod"], one["class"], one["exitCode"]) for one in written["attempts"]] == [
            ("poet-sft-a", "Internal", 70),
            ("poet-sft-b", "Infrastructure", 75),
            ("poet-sft-c", "Internal", 70),
        ]

    def test_an_attempt_is_counted_once_and_remembered_after_its_pod(self):
        first = status.compute(resource(), observed(crashed("poet-sft-a", 10), child=job()), None)
        second = status.compute(
            resource(first), observed(crashed("poet-sft-a", 10), crashed("poet-sft-b", 30), child=job()), None
        )
        third = status.compute(resource(second), observed(running("poet-sft-c", made=40), child=job()), None)
        assert [each["restarts"]["user"] for each in (first, second, third)] == [1, 2, 2]
        assert [one["pod"] for one in third["attempts"]] == ["poet-sft-a", "poet-sft-b"]

    def test_the_last_failure_is_no_restart(self):
        cluster = observed(
            *(crashed(f"poet-sft-{n}", n) for n in range(4)),
            child=job(condition="Failed", reason="BackoffLimitExceeded"),
        )
        assert status.compute(resource(), cluster, None)["restarts"] == {"user": 3, "infra": 0, "total": 3}

    def test_an_error_that_is_not_tried_again_is_no_restart(self):
        written = status.compute(resource(), observed(ended(65, says=BAD_ROW), child=job()), None)
        assert written["restarts"] == {"user": 0, "infra": 0, "total": 0}

    @pytest.mark.parametrize(
        ("cluster", "restarts"),
        [
            pytest.param(
                observed(ended(75), child=job(condition="FailureTarget", reason="DeadlineExceeded")), 0, id="told"
            ),
            pytest.param(observed(stopped(ended(75), 60), child=DUE), 0, id="not told yet"),
            pytest.param(observed(stopped(ended(75), 59), child=DUE), 1, id="stopped by somebody before"),
            pytest.param(observed(ended(75), child=DUE), 1, id="ended without being told to"),
            pytest.param(observed(stopped(ended(75), 60), child=job(started=at(0))), 1, id="has none"),
        ],
    )
    def test_a_pod_that_its_deadline_stopped_is_no_restart(self, cluster, restarts):
        written = status.compute(resource(activeDeadlineSeconds=60), cluster, None)
        assert written["restarts"] == {"user": 0, "infra": restarts, "total": restarts}

    def test_pods_that_were_suspended_away_are_no_failures(self):
        cluster = observed(ended(75), child=job(deletionTimestamp=at(1)))
        written = status.compute(resource(suspend=True), cluster, None)
        after = status.compute(
            resource(written), observed(ended(75, of="uid-of-an-earlier-job"), running("b", made=70), child=job()), None
        )
        for each in (written, after):
            assert each["restarts"]["total"] == 0
            assert "attempts" not in each

    @pytest.mark.parametrize(
        "child",
        [
            pytest.param(job(deletionTimestamp=at(41)), id="the Job is being deleted"),
            pytest.param(job(spec={"suspend": True}), id="Kueue has suspended the Job"),
            pytest.param(job(condition="Suspended", reason="JobSuspended"), id="the Job is let go and not resumed yet"),
            pytest.param(job(started=at(70)), id="the Job was suspended and runs again"),
        ],
    )
    @pytest.mark.parametrize("code", [75, 137, 143, 70])
    def test_a_pod_that_stopped_because_its_job_was_to_counts_towards_nothing(self, child, code):
        stops = [stopped(crashed(f"poet-sft-{n}", 60, code), 40) for n in range(3)]
        given = resource(prior(STARTED, "Running"), failurePolicy={"maxRestarts": 0, "maxInfraRestarts": 0})
        written = status.compute(given, observed(*stops, child=child), None)
        assert written["restarts"] == {"user": 0, "infra": 0, "total": 0}
        assert "attempts" not in written
        assert not status.is_final(written)

    def test_a_pod_that_failed_by_itself_before_its_job_was_suspended_counts(self):
        failed = stopped(crashed("poet-sft-a", 30), 40, grace=0)
        written = status.compute(resource(), observed(failed, child=job(spec={"suspend": True})), None)
        assert written["restarts"] == {"user": 1, "infra": 0, "total": 1}

    def test_a_pod_that_somebody_deleted_is_a_disruption(self):
        written = status.compute(resource(), observed(stopped(ended(137), 40), child=job()), None)
        assert written["restarts"] == {"user": 0, "infra": 1, "total": 1}

    def test_attempts_beyond_those_kept_are_not_counted_again(self):
        pods = [crashed(f"poet-sft-{n:03d}", n, code=75) for n in range(40)]
        first = status.compute(resource(failurePolicy={"maxInfraRestarts": 100}), observed(*pods, child=job()), None)
        given = resource(first, failurePolicy={"maxInfraRestarts": 100})
        second = status.compute(given, observed(*pods, crashed("poet-sft-new", 50, code=75), child=job()), None)
        assert (first["restarts"]["infra"], second["restarts"]["infra"]) == (40, 41)
        assert [one["pod"] for one in second["attempts"]] == [
            *(f"poet-sft-{n:03d}" for n in range(9, 40)),
            "poet-sft-new",
        ]
