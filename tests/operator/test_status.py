"""From what is seen to what is told: the standing, the reason and the line of every situation, and what it asks of the children."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from alpaca_operator import status
from alpaca_operator.api import SFTJob
from alpaca_operator.api.contract import Checkpoint, Progress, Published, Termination
from alpaca_operator.api.status import Reason, Status
from alpaca_operator.diagnosis import Refusal
from alpaca_operator.status import Change, Seen, Wish
from tests.operator.pods import START, at, ended, job, pod, running, unplaced, waiting

QUEUE = {"kueue.x-k8s.io/queue-name": "gpus"}
CHECKPOINT = Checkpoint(uri="pvc://models/poet.checkpoints/run-a/checkpoint-40", step=40)
TRAINING = Progress(
    stage="Training", step=1200, total_steps=5000, loss=2.34567, eta_seconds=7530, checkpoint=CHECKPOINT
)
OUTPUT = Published(uri="pvc://models/poet", digest="sha256:ab", kind="LoRAAdapter")
DONE = Termination(
    reason=Reason.SUCCEEDED,
    message="published",
    step=5000,
    total_steps=5000,
    loss=1.5,
    metrics={"evalLoss": 1.25, "perplexity": float("inf")},
    resolved_policy={"precision": "bf16"},
    resolved_inputs={"model": {"uri": "pvc://models/base", "digest": "sha256:cd"}},
    output=OUTPUT,
)


def resource(
    before: dict[str, Any] | None = None, *, labels: dict[str, str] | None = None, going: bool = False, **spec: Any
) -> SFTJob:
    metadata = {"name": "poet", "namespace": "poetry", "uid": "uid-poet", "generation": 2, "labels": labels or {}}
    if going:
        metadata["deletionTimestamp"] = at(0)
    return SFTJob.model_validate(
        {
            "apiVersion": "literary-alpaca.io/v1alpha1",
            "kind": "SFTJob",
            "metadata": metadata,
            "spec": {
                "model": {"uri": "pvc://models/base"},
                "dataset": {"train": [{"uri": "pvc://data/poems.jsonl"}]},
                "output": {"uri": "pvc://models/poet"},
                **spec,
            },
            "status": before or {"observedGeneration": -1},
        }
    )


def seen(*pods: dict[str, Any], child: dict[str, Any] | None = None, after: float = 100, **more: Any) -> Seen:
    return Seen(now=START + timedelta(seconds=after), child=child, pods=pods, **more)


def ready(written: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in written["conditions"] if one["type"] == "Ready")


def true(written: dict[str, Any]) -> set[str]:
    return {one["type"] for one in written["conditions"] if one["status"] == "True" and one["type"] != "InputsReady"}


def told(before: dict[str, Any], reason: str = "", **more: Any) -> dict[str, Any]:
    """A status as it was: with these fields, and Ready=False for this reason."""
    conditions = (
        [{"type": "Ready", "status": "False", "reason": reason, "message": "", "lastTransitionTime": at(0)}]
        if reason
        else []
    )
    return {"observedGeneration": 2, "conditions": conditions, **before, **more}


def crashed(name: str, finished: float, code: int = 70, **more: Any) -> dict[str, Any]:
    return ended(
        code,
        name,
        finished=finished,
        made=finished - 10,
        says=Termination(reason=Reason.WORKLOAD_ERROR, message="boom"),
        **more,
    )


HANG = Termination(reason=Reason.HUNG, exit_code=72, message="no step for 1800 s", checkpoint=CHECKPOINT)
BAD_ROW = Termination(reason=Reason.INVALID_DATA, exit_code=65, message="poems.jsonl, row 7: no answer: drop the row")
STARTED = {"startTime": at(0)}

WORKING, HELD, STUCK, WELL, FAILED = (
    {"Reconciling"},
    {"Suspended"},
    {"Stalled"},
    {"Ready", "Complete"},
    {"Stalled", "Failed"},
)

SITUATIONS = [
    pytest.param(resource(), seen(), WORKING, "Pending", "waits for its pod to start", id="new"),
    pytest.param(resource(), seen(child=job()), WORKING, "Pending", "waits for its pod to start", id="its Job is made"),
    pytest.param(
        resource(), seen(pod(), child=job()), WORKING, "Pending", "waits for its pod to start", id="its pod is made"
    ),
    pytest.param(
        resource(labels=QUEUE),
        seen(child=job(spec={"suspend": True})),
        WORKING,
        "Queued",
        "waits for room in Kueue's queue gpus: kubectl get workloads shows its place",
        id="Kueue has not admitted it",
    ),
    pytest.param(
        resource(told(STARTED, "Running", checkpoint={"uri": "x", "step": 40}), labels=QUEUE),
        seen(child=job(spec={"suspend": True})),
        WORKING,
        "Queued",
        "waits for room in Kueue's queue gpus, then continues from the checkpoint at step 40",
        id="Kueue preempted it",
    ),
    pytest.param(
        resource(),
        seen(child=job(spec={"suspend": True})),
        WORKING,
        "Queued",
        "its Job poet-sft was suspended by someone else: set spec.suspend of the Job to false",
        id="someone suspended its Job",
    ),
    pytest.param(
        resource(),
        seen(running(), child=job()),
        WORKING,
        "Starting",
        "pod poet-sft-a on node n1 loads model and data",
        id="its pod runs",
    ),
    pytest.param(
        resource(told(STARTED, "Starting")),
        seen(running(), child=job(), progress=Progress(stage="Preparing")),
        WORKING,
        "Starting",
        "pod poet-sft-a on node n1 loads model and data",
        id="tokenising is not running",
    ),
    pytest.param(
        resource(told(STARTED, "Starting")),
        seen(running(), child=job(), progress=TRAINING),
        WORKING,
        "Running",
        "pod poet-sft-a runs on node n1",
        id="steps are made",
    ),
    pytest.param(
        resource(told(STARTED, "Running")),
        seen(running(), child=job()),
        WORKING,
        "Running",
        "pod poet-sft-a runs on node n1",
        id="a pod that cannot be asked for its progress still runs",
    ),
    pytest.param(
        resource(),
        seen(unplaced('persistentvolumeclaim "data" not found'), child=job()),
        WORKING,
        "VolumeNotReady",
        "PersistentVolumeClaim data does not exist in namespace poetry: create it, or name another claim in pvc:// (pod poet-sft-a)",
        id="a claim is missing",
    ),
    pytest.param(
        resource(),
        seen(waiting("ErrImagePull", "not found", image="x:1"), child=job()),
        WORKING,
        "ImageNotPullable",
        "image x:1 cannot be pulled: the registry has no such image: correct pod.image (pod poet-sft-a)",
        id="its image is missing",
    ),
    pytest.param(
        resource(),
        seen(child=job(), refusal=Refusal(Reason.QUOTA_EXCEEDED, "quota gpus has no room")),
        WORKING,
        "QuotaExceeded",
        "quota gpus has no room",
        id="a quota that refuses the pod may have room later",
    ),
    pytest.param(
        resource(),
        seen(child=job(), refusal=Refusal(Reason.ADMISSION_REFUSED, "policy images refuses the pod")),
        STUCK,
        "AdmissionRefused",
        "policy images refuses the pod",
        id="a policy that refuses the pod waits for a person",
    ),
    pytest.param(
        resource(told(STARTED, "Running")),
        seen(running(metadata={"deletionTimestamp": at(700)}), child=job()),
        WORKING,
        "Stopping",
        "pod poet-sft-a was told to stop; a running step is saved first",
        id="its pod is being evicted",
    ),
    pytest.param(
        resource(told(STARTED, "Running")),
        seen(ended(75, disrupted="EvictionByEvictionAPI"), child=job()),
        WORKING,
        "Restarting",
        "evicted from node n1, as when a node is drained; a checkpoint was saved (pod poet-sft-a, exit 75); the next pod starts from the "
        "newest checkpoint, if there is one (restart 1 of 10, failurePolicy.maxInfraRestarts)",
        id="its pod was evicted",
    ),
    pytest.param(
        resource(told(STARTED, "Running")),
        seen(ended(72, says=HANG), child=job()),
        WORKING,
        "Restarting",
        "no step for 1800 s (pod poet-sft-a, exit 72); the next pod continues from the checkpoint at step 40 (restart 1 of 3, "
        "failurePolicy.maxRestarts)",
        id="it hung",
    ),
    pytest.param(
        resource(told(STARTED, "Restarting")),
        seen(ended(72, says=HANG), pod("poet-sft-b", made=70), child=job()),
        WORKING,
        "Restarting",
        "no step for 1800 s (pod poet-sft-a, exit 72); the next pod continues from the checkpoint at step 40 (restart 1 of 3, "
        "failurePolicy.maxRestarts)",
        id="the next pod is made",
    ),
    pytest.param(
        resource(told(STARTED, "Restarting")),
        seen(ended(72, says=HANG), running("poet-sft-b", made=70), child=job()),
        WORKING,
        "Starting",
        "pod poet-sft-b on node n1 loads model and data",
        id="the next pod has taken over",
    ),
    pytest.param(
        resource(told(STARTED, "Running")),
        seen(),
        WORKING,
        "ChildLost",
        "its Job was deleted by someone else and is made again; it starts from the newest checkpoint, if there is one",
        id="someone deleted its Job",
    ),
    pytest.param(
        resource(told(STARTED, "Running")),
        seen(running(), child=job(deletionTimestamp=at(90))),
        WORKING,
        "Stopping",
        "waits for Job poet-sft to stop, then starts from the newest checkpoint, if there is one",
        id="someone is deleting its Job",
    ),
    pytest.param(
        resource(told(STARTED, "Suspended")),
        seen(running(of="uid-of-an-earlier-job")),
        WORKING,
        "Stopping",
        "waits for pod poet-sft-a to stop, then starts from the newest checkpoint, if there is one",
        id="a pod of an earlier Job still saves",
    ),
    pytest.param(
        resource(suspend=True),
        seen(),
        HELD,
        "Suspended",
        "held by spec.suspend: set it to false to start",
        id="made suspended",
    ),
    pytest.param(
        resource(told(STARTED, "Running"), suspend=True),
        seen(running(), child=job()),
        WORKING,
        "Stopping",
        "spec.suspend is true: pod poet-sft-a stops, a running step is saved first",
        id="being suspended",
    ),
    pytest.param(
        resource(told(STARTED, "Stopping", checkpoint={"uri": "x", "step": 40}), suspend=True),
        seen(ended(75)),
        HELD,
        "Suspended",
        "held by spec.suspend; set to false, it continues from the checkpoint at step 40",
        id="suspended in mid-training",
    ),
    pytest.param(
        resource(told(STARTED, "Running")),
        seen(ended(0, says=DONE), child=job()),
        WELL,
        "Succeeded",
        "published pvc://models/poet",
        id="its pod ended well",
    ),
    pytest.param(
        resource(told(STARTED, "Running")),
        seen(child=job(condition="Complete")),
        WELL,
        "Succeeded",
        "published pvc://models/poet",
        id="its Job is complete and the pod is gone",
    ),
    pytest.param(
        resource(told(STARTED, "Running"), suspend=True),
        seen(ended(0, says=DONE)),
        WELL,
        "Succeeded",
        "published pvc://models/poet",
        id="suspended in the moment it ended well",
    ),
    pytest.param(
        resource(told(STARTED, "Starting")),
        seen(ended(0, says=Termination(reason=Reason.REUSED, output=OUTPUT)), child=job()),
        WELL,
        "Reused",
        "pvc://models/poet already holds the result of the same spec and inputs: nothing was run",
        id="the output was there",
    ),
    pytest.param(
        resource(told(STARTED, "Starting")),
        seen(ended(65, says=BAD_ROW), child=job()),
        FAILED,
        "InvalidData",
        "poems.jsonl, row 7: no answer: drop the row (pod poet-sft-a, exit 65)",
        id="a bad row ends it at once",
    ),
    pytest.param(
        resource(told(STARTED, "Running")),
        seen(ended(137, reason="OOMKilled", resources={"limits": {"memory": "16Gi"}}), child=job()),
        FAILED,
        "OutOfMemory",
        "out of memory at the limit of 16Gi: raise pod.resources.limits.memory (it includes /dev/shm), or make the batch smaller "
        "(pod poet-sft-a, exit 137)",
        id="out of memory ends it at once",
    ),
    pytest.param(
        resource(told(STARTED, "Running")),
        seen(ended(137, reason="OOMKilled"), running("poet-sft-b", made=70), child=job()),
        FAILED,
        "OutOfMemory",
        "the node ran out of memory: set pod.resources.requests.memory and limits.memory to what the job needs (pod poet-sft-a, exit 137)",
        id="out of memory ends it, although the Job controller has made another pod meanwhile",
    ),
    pytest.param(
        resource(told(STARTED, "Restarting"), failurePolicy={"maxRestarts": 1}),
        seen(
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
        resource(told(STARTED, "Running"), failurePolicy={"maxRestarts": 0}),
        seen(crashed("poet-sft-a", 10), child=job(condition="Failed", reason="BackoffLimitExceeded")),
        FAILED,
        "WorkloadError",
        "boom (pod poet-sft-a, exit 70)",
        id="without restarts the cause is the reason",
    ),
    pytest.param(
        resource(
            told(STARTED, "Running", restarts={"user": 0, "infra": 1, "total": 1}),
            failurePolicy={"maxInfraRestarts": 1},
        ),
        seen(ended(75, disrupted="PreemptionByScheduler"), child=job()),
        FAILED,
        "RestartsExceeded",
        "gave up after 1 restart by disruption (failurePolicy.maxInfraRestarts), the last: preempted on node n1 by a pod of higher "
        "priority; a pod.priorityClassName may prevent that; a checkpoint was saved (pod poet-sft-a, exit 75). A job of another name with "
        "the same output starts from the newest checkpoint, if there is one",
        id="too many disruptions",
    ),
    pytest.param(
        resource(told(STARTED, "Running", checkpoint={"uri": "x", "step": 40}), activeDeadlineSeconds=60),
        seen(ended(75), child=job(condition="Failed", reason="DeadlineExceeded")),
        FAILED,
        "DeadlineExceeded",
        "still running after activeDeadlineSeconds (60 s): a job of another name with a longer one and the same output continues from the "
        "checkpoint at step 40",
        id="its deadline passed",
    ),
    pytest.param(
        resource(told(STARTED, "Running")),
        seen(child=job(condition="Failed", reason="PodFailurePolicy")),
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
        assert status.change(written, status.compute(again, cluster, None)) is Change.NOTHING


def test_every_situation_has_exactly_one_standing():
    """kstatus reads deletion, generation, Reconciling, Stalled, Ready in this order; two of them must never be True."""
    for standing in status.Standing:
        states = {condition: standing in when for condition, when in status.TRUE_WHEN.items()}
        assert sum(states[each] for each in ("Reconciling", "Stalled", "Suspended", "Ready")) == 1
        assert states["Complete"] == states["Ready"]
        assert states["Stalled"] or not states["Failed"]


def test_a_refusal_of_the_child_itself_is_told():
    refusal = Refusal(Reason.NAME_CONFLICT, "its child's name is taken")
    written = status.compute(resource(), seen(), refusal)
    assert (ready(written)["reason"], true(written)) == ("NameConflict", STUCK)
    assert written["failure"] == {
        "class": "UserError",
        "reason": "NameConflict",
        "message": "its child's name is taken",
    }


class TestTheEndIsSticky:
    BEFORE = status.compute(resource(), seen(ended(65, says=BAD_ROW), child=job()), None)

    @pytest.mark.parametrize(
        "cluster",
        [
            pytest.param(seen(), id="its Job is gone"),
            pytest.param(seen(running(), child=job()), id="somebody made a Job of its name"),
            pytest.param(seen(ended(0, says=DONE), child=job(condition="Complete")), id="a late pod ended well"),
        ],
    )
    def test_whatever_becomes_of_the_children(self, cluster):
        assert status.is_terminal(resource(self.BEFORE))
        assert status.compute(resource(self.BEFORE), cluster, None) == self.BEFORE

    def test_a_field_that_may_still_change_is_observed(self):
        """Without that kstatus would call the job in progress for ever."""
        given = resource({**self.BEFORE, "observedGeneration": 1}, ttlSecondsAfterFinished=60)
        assert status.compute(given, seen(), None)["observedGeneration"] == 2


class TestWish:
    FAILED = TestTheEndIsSticky.BEFORE
    GIVEN_UP = status.compute(resource(), seen(ended(137, reason="OOMKilled"), child=job()), None)
    DONE = status.compute(resource(), seen(ended(0, says=DONE), child=job()), None)

    @pytest.mark.parametrize(
        ("given", "cluster", "wish"),
        [
            pytest.param(resource(), seen(), Wish.EXIST, id="new: a child is made"),
            pytest.param(
                resource(), seen(running(), child=job()), Wish.EXIST, id="running: the child stays what it should be"
            ),
            pytest.param(resource(told(STARTED, "Running")), seen(), Wish.EXIST, id="a lost child is made again"),
            pytest.param(resource(suspend=True), seen(running(), child=job()), Wish.GO, id="suspended: the child goes"),
            pytest.param(
                resource(going=True),
                seen(running(), child=job()),
                Wish.STAY,
                id="deleted: the garbage collector has it",
            ),
            pytest.param(
                resource(),
                seen(child=job(deletionTimestamp=at(1))),
                Wish.STAY,
                id="nothing is made next to a child that is going",
            ),
            pytest.param(
                resource(),
                seen(running(of="uid-of-an-earlier-job")),
                Wish.STAY,
                id="nothing is made next to a pod that still saves",
            ),
            pytest.param(
                resource(),
                seen(ended(137, reason="OOMKilled"), child=job()),
                Wish.STAY,
                id="given up, but the status does not tell yet",
            ),
            pytest.param(
                resource(GIVEN_UP),
                seen(child=job()),
                Wish.END,
                id="given up and told: the child must not start another pod",
            ),
            pytest.param(
                resource(GIVEN_UP),
                seen(child=job(condition="Failed")),
                Wish.STAY,
                id="given up, and the child has ended",
            ),
            pytest.param(resource(GIVEN_UP), seen(), Wish.STAY, id="given up, and the child is gone"),
            pytest.param(resource(FAILED), seen(child=job()), Wish.STAY, id="the Job ends by itself at exit 65"),
            pytest.param(
                resource(DONE), seen(child=job()), Wish.STAY, id="done: a child that has not noticed is left alone"
            ),
            pytest.param(resource(DONE), seen(), Wish.STAY, id="done: a child removed is not made again"),
            pytest.param(
                resource(DONE, ttlSecondsAfterFinished=39),
                seen(child=job(condition="Complete"), after=98),
                Wish.STAY,
                id="before its TTL",
            ),
            pytest.param(
                resource(DONE, ttlSecondsAfterFinished=39),
                seen(child=job(condition="Complete"), after=99),
                Wish.GO,
                id="after its TTL",
            ),
            pytest.param(
                resource(DONE, ttlSecondsAfterFinished=0),
                seen(child=job(condition="Complete", deletionTimestamp=at(1))),
                Wish.STAY,
                id="after its TTL, and going already",
            ),
        ],
    )
    def test_what_the_children_should_do(self, given, cluster, wish):
        assert status.wish(given, cluster) is wish


class TestRestarts:
    def test_errors_and_disruptions_are_counted_apart(self):
        cluster = seen(
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
        first = status.compute(resource(), seen(crashed("poet-sft-a", 10), child=job()), None)
        second = status.compute(
            resource(first), seen(crashed("poet-sft-a", 10), crashed("poet-sft-b", 30), child=job()), None
        )
        third = status.compute(resource(second), seen(running("poet-sft-c", made=40), child=job()), None)
        assert [each["restarts"]["user"] for each in (first, second, third)] == [1, 2, 2]
        assert [one["pod"] for one in third["attempts"]] == ["poet-sft-a", "poet-sft-b"]

    def test_the_last_failure_is_no_restart(self):
        cluster = seen(
            *(crashed(f"poet-sft-{n}", n) for n in range(4)),
            child=job(condition="Failed", reason="BackoffLimitExceeded"),
        )
        assert status.compute(resource(), cluster, None)["restarts"] == {"user": 3, "infra": 0, "total": 3}

    def test_an_error_that_is_not_tried_again_is_no_restart(self):
        written = status.compute(resource(), seen(ended(65, says=BAD_ROW), child=job()), None)
        assert written["restarts"] == {"user": 0, "infra": 0, "total": 0}

    def test_pods_that_were_suspended_away_are_no_failures(self):
        cluster = seen(ended(75), child=job(deletionTimestamp=at(1)))
        written = status.compute(resource(suspend=True), cluster, None)
        after = status.compute(
            resource(written), seen(ended(75, of="uid-of-an-earlier-job"), running("b", made=70), child=job()), None
        )
        for each in (written, after):
            assert each["restarts"]["total"] == 0
            assert "attempts" not in each

    def test_attempts_beyond_those_kept_are_not_counted_again(self):
        pods = [crashed(f"poet-sft-{n:03d}", n, code=75) for n in range(40)]
        first = status.compute(resource(failurePolicy={"maxInfraRestarts": 100}), seen(*pods, child=job()), None)
        given = resource(first, failurePolicy={"maxInfraRestarts": 100})
        second = status.compute(given, seen(*pods, crashed("poet-sft-new", 50, code=75), child=job()), None)
        assert (first["restarts"]["infra"], second["restarts"]["infra"]) == (40, 41)
        assert [one["pod"] for one in second["attempts"]] == [
            *(f"poet-sft-{n:03d}" for n in range(9, 40)),
            "poet-sft-new",
        ]


class TestProgress:
    def test_figures_are_shown_as_kubectl_needs_them(self):
        told = TRAINING.model_copy(update={"epoch": 0.72, "learning_rate": 9e-5, "tokens_per_second": 812.4})
        cluster = seen(running(), child=job(), progress=told, progress_at=START + timedelta(seconds=95))
        written = status.compute(resource(), cluster, None)
        assert written["progress"] == {
            "step": 1200,
            "totalSteps": 5000,
            "percent": 24,
            "epoch": 0.72,
            "loss": 2.34567,
            "lossDisplay": "2.346",
            "learningRate": 9e-5,
            "tokensPerSecond": 812.4,
            "etaSeconds": 7530,
            "eta": "2h05m",
            "display": "1200/5000 24%",
            "stage": "Training",
            "updatedAt": at(95),
        }
        assert written["checkpoint"] == {"uri": CHECKPOINT.uri, "step": 40}

    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3599, "59m"),
            (3600, "1h00m"),
            (7530, "2h05m"),
            (90061, "1d01h"),
            (-5, "0s"),
        ],
    )
    def test_a_duration(self, seconds, shown):
        assert status.duration(seconds) == shown

    def test_a_loss_that_is_no_number_is_said_and_not_written(self):
        cluster = seen(running(), child=job(), progress=Progress(stage="Training", step=3, loss=float("nan")))
        written = status.compute(resource(), cluster, None)
        assert "loss" not in written["progress"]
        assert (written["progress"]["lossDisplay"], written["progress"]["display"]) == ("NaN", "3")

    def test_figures_alone_may_wait_and_a_change_of_state_may_not(self):
        first = status.compute(resource(), seen(running(), child=job(), progress=TRAINING), None)
        further = TRAINING.model_copy(update={"step": 1201, "checkpoint": Checkpoint(uri="x", step=1200)})
        second = status.compute(resource(first), seen(running(), child=job(), progress=further), None)
        third = status.compute(resource(second), seen(ended(72), child=job()), None)
        assert status.change(first, second) is Change.PROGRESS
        assert status.change(second, third) is Change.TRANSITION

    def test_what_the_api_server_adds_by_default_is_no_change(self):
        written = status.compute(resource(), seen(), None)
        assert status.change({**written, "attempts": []}, written) is Change.NOTHING

    def test_a_first_pod_alone_is_told_with_what_it_does_next(self):
        written = status.compute(resource(), seen(child=job()), None)
        assert status.change(written, {**written, "startTime": "2026-11-24T10:00:00Z"}) is Change.NOTHING

    def test_between_two_pods_the_figures_stay_and_the_eta_goes(self):
        before = status.compute(resource(), seen(running(), child=job(), progress=TRAINING), None)
        written = status.compute(resource(before), seen(ended(72), child=job()), None)
        assert written["progress"]["display"] == "1200/5000 24%"
        assert "eta" not in written["progress"]


class TestTheResult:
    def test_all_of_it_comes_from_the_last_word(self):
        before = status.compute(resource(), seen(running(), child=job(), progress=TRAINING), None)
        written = status.compute(resource(before), seen(ended(0, says=DONE, finished=70), child=job()), None)
        assert written["output"] == {
            "uri": "pvc://models/poet",
            "digest": "sha256:ab",
            "kind": "LoRAAdapter",
            "reused": False,
        }
        assert written["metrics"] == {"evalLoss": 1.25}
        assert written["resolvedPolicy"] == {"precision": "bf16"}
        assert written["resolvedInputs"] == {"model": {"uri": "pvc://models/base", "digest": "sha256:cd"}}
        assert written["completionTime"] == at(70)
        progress = written["progress"]
        assert (progress["display"], progress["lossDisplay"]) == ("5000/5000 100%", "1.5")
        assert not {"eta", "etaSeconds", "stage"} & progress.keys()
        assert "failure" not in written

    def test_a_failure_names_its_cause(self):
        said = BAD_ROW.model_copy(update={"rank": 0})
        written = status.compute(resource(), seen(ended(65, says=said), child=job()), None)
        assert written["failure"] == {
            "class": "DataError",
            "reason": "InvalidData",
            "exitCode": 65,
            "pod": "poet-sft-a",
            "rank": 0,
            "message": "poems.jsonl, row 7: no answer: drop the row (pod poet-sft-a, exit 65)",
        }

    def test_behind_used_up_restarts_lies_the_cause_of_the_last(self):
        cluster = seen(
            *(crashed(f"poet-sft-{n}", n) for n in range(4)),
            child=job(condition="Failed", reason="BackoffLimitExceeded"),
        )
        written = status.compute(resource(), cluster, None)
        assert (ready(written)["reason"], written["failure"]["reason"]) == ("RestartsExceeded", "WorkloadError")

    def test_a_trouble_that_passed_is_forgotten(self):
        before = status.compute(resource(), seen(waiting("ErrImagePull", "not found"), child=job()), None)
        assert before["failure"]["reason"] == "ImageNotPullable"
        assert "failure" not in status.compute(resource(before), seen(running(), child=job()), None)


class TestInputsReady:
    @staticmethod
    def of(written: dict[str, Any]) -> tuple[str, str]:
        found = next(one for one in written["conditions"] if one["type"] == "InputsReady")
        return found["status"], found["reason"]

    def test_unknown_until_the_workload_has_read_them(self):
        assert self.of(status.compute(resource(), seen(), None)) == ("Unknown", "Pending")

    def test_true_from_the_first_step_on_and_after_a_restart(self):
        before = status.compute(resource(), seen(running(), child=job(), progress=TRAINING), None)
        assert self.of(before) == ("True", "Running")
        assert self.of(status.compute(resource(before), seen(ended(72), child=job()), None)) == ("True", "Running")

    def test_false_for_a_claim_or_a_path_that_is_missing(self):
        claim = status.compute(resource(), seen(unplaced('persistentvolumeclaim "data" not found'), child=job()), None)
        missing = Termination(reason=Reason.INPUT_NOT_FOUND, exit_code=66, message="no model")
        path = status.compute(resource(), seen(ended(66, says=missing), child=job()), None)
        assert (self.of(claim), self.of(path)) == (("False", "VolumeNotReady"), ("False", "InputNotFound"))


class TestTimes:
    def test_a_condition_remembers_since_when_it_holds(self):
        first = status.compute(resource(), seen(after=10), None)
        second = status.compute(resource(first), seen(running(), child=job(), after=50), None)
        third = status.compute(resource(second), seen(ended(0, says=DONE), child=job(), after=90), None)
        since = [
            {one["type"]: one["lastTransitionTime"] for one in each["conditions"]} for each in (first, second, third)
        ]
        assert [each["Reconciling"] for each in since] == [at(10), at(10), at(90)]
        assert [each["Failed"] for each in since] == [at(10), at(10), at(10)]

    def test_it_starts_with_its_first_pod(self):
        first = status.compute(resource(), seen(pod(made=5), child=job()), None)
        second = status.compute(resource(first), seen(running("b", made=50), child=job()), None)
        assert (first["startTime"], second["startTime"]) == (at(5), at(5))

    def test_when_time_alone_changes_something(self):
        done = status.compute(resource(), seen(ended(0, says=DONE, finished=60), child=job()), None)
        with_ttl = resource(done, ttlSecondsAfterFinished=100)
        assert status.look_again(with_ttl, seen(child=job(), after=90)) == timedelta(seconds=70)
        assert status.look_again(with_ttl, seen(after=90)) is None
        assert status.look_again(resource(done), seen(child=job(), after=90)) is None
        stopping = running(metadata={"deletionTimestamp": at(600)})
        assert status.look_again(resource(), seen(stopping, child=job(), after=100)) == timedelta(seconds=560)
        assert status.look_again(resource(), seen(running(), child=job(), after=100)) is None


def test_a_status_fits_the_model_that_the_crd_is_made_from():
    written = status.compute(resource(), seen(ended(65, says=BAD_ROW), child=job()), None)
    assert status.dump(Status.model_validate(written)) == written
