"""What is told of a standing: conditions, figures, result, times; and what is asked of the children."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from alpaca_operator.api.contract import Checkpoint, Goodput, Progress, Termination
from alpaca_operator.api.status import Reason, Status
from alpaca_operator.exits import Refused
from alpaca_operator.jobs import status
from alpaca_operator.outcomes import conditions
from alpaca_operator.outcomes.conditions import Change
from alpaca_operator.outcomes.verdict import Desired, Standing
from tests.operator.cases import (
    BAD_ROW,
    CHECKPOINT,
    DONE,
    STARTED,
    TRAINING,
    crashed,
    observed,
    prior,
    ready,
    resource,
    true,
)
from tests.operator.pods import (
    RUNS,
    START,
    at,
    beside,
    ended,
    failed_with,
    job,
    pod,
    running,
    stopped,
    unplaced,
    waiting,
)


def test_every_situation_has_exactly_one_standing():
    """kstatus reads deletion, generation, Reconciling, Stalled, Ready in this order; two of them must never be True."""
    for standing in Standing:
        states = {condition: standing in when for condition, when in status.TRUE_WHEN.items()}
        assert sum(states[each] for each in ("Reconciling", "Stalled", "Suspended", "Ready")) == 1
        assert states["Complete"] == states["Ready"]
        assert states["Stalled"] or not states["Failed"]


def test_a_refusal_of_the_child_itself_is_told():
    refusal = Refused(Reason.NAME_CONFLICT, "its child's name is taken")
    written = status.compute(resource(), observed(), refusal)
    assert (ready(written)["reason"], true(written)) == ("NameConflict", {"Stalled"})
    assert written["failure"] == {
        "class": "UserError",
        "reason": "NameConflict",
        "message": "its child's name is taken",
    }


class TestTheEndIsSticky:
    BEFORE = status.compute(resource(), observed(ended(65, says=BAD_ROW), child=job()), None)

    @pytest.mark.parametrize(
        "cluster",
        [
            pytest.param(observed(), id="its Job is gone"),
            pytest.param(observed(running(), child=job()), id="somebody made a Job of its name"),
            pytest.param(observed(ended(0, says=DONE), child=job(condition="Complete")), id="a late pod ended well"),
        ],
    )
    def test_whatever_becomes_of_the_children(self, cluster):
        assert status.is_terminal(resource(self.BEFORE))
        assert status.compute(resource(self.BEFORE), cluster, None) == self.BEFORE

    def test_a_field_that_may_still_change_is_observed(self):
        """Without that kstatus would call the job in progress for ever."""
        given = resource({**self.BEFORE, "observedGeneration": 1}, ttlSecondsAfterFinished=60)
        assert status.compute(given, observed(), None)["observedGeneration"] == 2


class TestDesired:
    FAILED = TestTheEndIsSticky.BEFORE
    GIVEN_UP = status.compute(resource(), observed(ended(137, reason="OOMKilled"), child=job()), None)
    USED_UP = status.compute(resource(), observed(crashed("poet-sft-a", 10), child=job(spec={"backoffLimit": 0})), None)
    HUNG = status.compute(
        resource(failurePolicy={"maxRestarts": 0}), observed(ended(72), child=job(spec={"backoffLimit": 0})), None
    )
    DONE = status.compute(resource(), observed(ended(0, says=DONE), child=job()), None)

    @pytest.mark.parametrize(
        ("given", "cluster", "desired"),
        [
            pytest.param(resource(), observed(), Desired.PRESENT, id="new: a child is made"),
            pytest.param(
                resource(),
                observed(running(), child=job()),
                Desired.PRESENT,
                id="running: the child stays what it should be",
            ),
            pytest.param(
                resource(prior(STARTED, "Running")), observed(), Desired.PRESENT, id="a lost child is made again"
            ),
            pytest.param(
                resource(suspend=True), observed(running(), child=job()), Desired.ABSENT, id="suspended: the child goes"
            ),
            pytest.param(
                resource(suspend=True),
                observed(ended(0), child=job()),
                Desired.UNCHANGED,
                id="suspended in its last moment: the end is told first",
            ),
            pytest.param(
                resource(going=True),
                observed(running(), child=job()),
                Desired.UNCHANGED,
                id="deleted: the garbage collector has it",
            ),
            pytest.param(
                resource(),
                observed(child=job(deletionTimestamp=at(1))),
                Desired.UNCHANGED,
                id="nothing is made next to a child that is going",
            ),
            pytest.param(
                resource(),
                observed(running(of="uid-of-an-earlier-job")),
                Desired.UNCHANGED,
                id="nothing is made next to a pod that still saves",
            ),
            pytest.param(
                resource(),
                observed(ended(137, reason="OOMKilled"), child=job()),
                Desired.UNCHANGED,
                id="given up, but the status does not tell yet",
            ),
            pytest.param(
                resource(GIVEN_UP),
                observed(child=job()),
                Desired.STOPPED,
                id="given up and told: the child must not start another pod",
            ),
            pytest.param(
                resource(USED_UP),
                observed(crashed("poet-sft-a", 10), child=job(spec={"backoffLimit": 0})),
                Desired.UNCHANGED,
                id="its restarts are used up: the Job ends by itself",
            ),
            pytest.param(
                resource(GIVEN_UP),
                observed(
                    ended(137, reason="OOMKilled", status={"phase": "Running"}),
                    child=job(),
                ),
                Desired.UNCHANGED,
                id="given up and told, but the pod's phase is late: the Job would delete it, and its log",
            ),
            pytest.param(
                resource(GIVEN_UP),
                observed(child=job(condition="Failed")),
                Desired.UNCHANGED,
                id="given up, and the child has ended",
            ),
            pytest.param(resource(GIVEN_UP), observed(), Desired.UNCHANGED, id="given up, and the child is gone"),
            pytest.param(
                resource(FAILED), observed(child=job()), Desired.UNCHANGED, id="the Job ends by itself at exit 65"
            ),
            pytest.param(
                resource(HUNG, failurePolicy={"maxRestarts": 0}),
                observed(ended(72), child=job(spec={"backoffLimit": 0})),
                Desired.UNCHANGED,
                id="the Job ends by itself above its own limit",
            ),
            pytest.param(
                resource(HUNG),
                observed(ended(75), child=job(condition="FailureTarget", reason="DeadlineExceeded")),
                Desired.UNCHANGED,
                id="the Job is about to end",
            ),
            pytest.param(
                resource(activeDeadlineSeconds=60),
                observed(stopped(running(), 61), child=job(started=at(0), spec={"activeDeadlineSeconds": 60})),
                Desired.PRESENT,
                id="the Job stops its pod, and has not said why",
            ),
            pytest.param(
                resource(DONE),
                observed(child=job()),
                Desired.UNCHANGED,
                id="done: a child that has not noticed is left alone",
            ),
            pytest.param(
                resource(DONE),
                observed(beside(ended(0), failed_with(1), phase="Failed"), child=job()),
                Desired.STOPPED,
                id="done, and the Job would run it again for the sake of a proxy that failed",
            ),
            pytest.param(
                resource(DONE),
                observed(beside(ended(0), RUNS, phase="Running"), child=job()),
                Desired.UNCHANGED,
                id="done, and a proxy goes on: first its pod is ended",
            ),
            pytest.param(
                resource(GIVEN_UP),
                observed(crashed("poet-sft-a", 10, code=137), child=job(spec={"backoffLimit": 0})),
                Desired.STOPPED,
                id="given up after a kill, which the Job does not count",
            ),
            pytest.param(resource(DONE), observed(), Desired.UNCHANGED, id="done: a child removed is not made again"),
            pytest.param(
                resource(DONE, ttlSecondsAfterFinished=39),
                observed(child=job(condition="Complete"), after=98),
                Desired.UNCHANGED,
                id="before its TTL",
            ),
            pytest.param(
                resource(DONE, ttlSecondsAfterFinished=39),
                observed(child=job(condition="Complete"), after=99),
                Desired.ABSENT,
                id="after its TTL",
            ),
            pytest.param(
                resource(DONE, ttlSecondsAfterFinished=0),
                observed(child=job(condition="Complete", deletionTimestamp=at(1))),
                Desired.UNCHANGED,
                id="after its TTL, and going already",
            ),
        ],
    )
    def test_what_the_children_should_do(self, given, cluster, desired):
        assert status.desired(given, cluster) is desired

    @pytest.mark.parametrize(
        ("one", "is_ended"),
        [
            pytest.param(beside(ended(0), RUNS, phase="Running"), True, id="done, and a proxy goes on"),
            pytest.param(beside(ended(70), RUNS, phase="Running"), True, id="failed, and a proxy goes on"),
            pytest.param(beside(running(), RUNS), False, id="both go on"),
            pytest.param(ended(70, status={"phase": "Running"}), False, id="its phase is late"),
            pytest.param(
                beside(ended(0), RUNS, phase="Running", init=True), False, id="a native sidecar ends by itself"
            ),
            pytest.param(stopped(beside(ended(0), RUNS, phase="Running"), 70), False, id="told to stop already"),
        ],
    )
    def test_a_pod_that_only_others_keep_going_is_ended_once(self, one, is_ended):
        assert [pod.raw for pod in status.spent(observed(one, child=job()))] == [one] * is_ended
        told = {**one, "spec": {**one["spec"], "activeDeadlineSeconds": 1}}
        assert status.spent(observed(told, child=job())) == []


class TestProgress:
    def test_figures_are_shown_as_kubectl_needs_them(self):
        scraped = TRAINING.model_copy(update={"epoch": 0.72, "learning_rate": 9e-5, "tokens_per_second": 812.4})
        cluster = observed(running(), child=job(), progress=scraped, progress_at=START + timedelta(seconds=95))
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

    def test_goodput_is_told_in_as_many_figures_as_it_has_meaning(self):
        def told(goodput: Goodput) -> dict[str, float]:
            scraped = TRAINING.model_copy(update={"goodput": goodput})
            written = status.compute(resource(), observed(running(), child=job(), progress=scraped), None)
            return written["progress"]["goodput"]

        assert told(Goodput(steps=1200 / 1237, time=0.81249)) == {"steps": 0.97, "time": 0.812}
        assert told(Goodput(steps=1)) == {"steps": 1}

    def test_a_loss_that_is_no_number_is_said_and_not_written(self):
        cluster = observed(running(), child=job(), progress=Progress(stage="Training", step=3, loss=float("nan")))
        written = status.compute(resource(), cluster, None)
        assert "loss" not in written["progress"]
        assert (written["progress"]["lossDisplay"], written["progress"]["display"]) == ("NaN", "3")

    def test_figures_alone_may_wait_and_a_change_of_state_may_not(self):
        first = status.compute(resource(), observed(running(), child=job(), progress=TRAINING), None)
        further = TRAINING.model_copy(update={"step": 1201, "checkpoint": Checkpoint(uri="x", step=1200)})
        second = status.compute(resource(first), observed(running(), child=job(), progress=further), None)
        third = status.compute(resource(second), observed(ended(72), child=job()), None)
        assert conditions.change(first, second, Status) is Change.PROGRESS
        assert conditions.change(second, third, Status) is Change.TRANSITION

    def test_what_the_api_server_adds_by_default_is_no_change(self):
        written = status.compute(resource(), observed(), None)
        assert conditions.change({**written, "attempts": []}, written, Status) is Change.NOTHING

    def test_a_first_pod_alone_is_told_with_what_it_does_next(self):
        written = status.compute(resource(), observed(child=job()), None)
        assert conditions.change(written, {**written, "startTime": "2026-11-24T10:00:00Z"}, Status) is Change.NOTHING

    def test_between_two_pods_the_figures_stay_and_the_eta_goes(self):
        before = status.compute(resource(), observed(running(), child=job(), progress=TRAINING), None)
        written = status.compute(resource(before), observed(ended(72), child=job()), None)
        assert written["progress"]["display"] == "1200/5000 24%"
        assert "eta" not in written["progress"]

    def test_what_a_pod_told_just_before_it_failed_promises_nothing(self):
        written = status.compute(resource(), observed(ended(65, says=BAD_ROW), child=job(), progress=TRAINING), None)
        assert written["progress"]["display"] == "1200/5000 24%"
        assert not {"eta", "etaSeconds"} & written["progress"].keys()


class TestTheResult:
    def test_all_of_it_comes_from_the_last_word(self):
        training = TRAINING.model_copy(update={"epoch": 0.72, "learning_rate": 9e-5})
        before = status.compute(resource(), observed(running(), child=job(), progress=training), None)
        written = status.compute(resource(before), observed(ended(0, says=DONE, finished=70), child=job()), None)
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
        assert not {"epoch", "learningRate"} & progress.keys(), "they were of an earlier step"
        assert before["checkpoint"]["step"] == 40
        assert "checkpoint" not in written, "it is gone with the run that published"
        assert "failure" not in written

    def test_where_it_lies_is_for_the_spec_to_say(self):
        assert DONE.output is not None
        elsewhere = DONE.model_copy(update={"output": DONE.output.model_copy(update={"uri": "pvc://others/model"})})
        written = status.compute(resource(), observed(ended(0, says=elsewhere), child=job()), None)
        assert written["output"]["uri"] == "pvc://models/poet"

    def test_a_failure_names_its_cause(self):
        said = BAD_ROW.model_copy(update={"rank": 0})
        written = status.compute(resource(), observed(ended(65, says=said), child=job()), None)
        assert written["failure"] == {
            "class": "DataError",
            "reason": "InvalidData",
            "exitCode": 65,
            "pod": "poet-sft-a",
            "rank": 0,
            "message": "poems.jsonl, row 7: no answer: drop the row (pod poet-sft-a, exit 65)",
        }

    def test_behind_used_up_restarts_lies_the_cause_of_the_last(self):
        cluster = observed(
            *(crashed(f"poet-sft-{n}", n) for n in range(4)),
            child=job(condition="Failed", reason="BackoffLimitExceeded"),
        )
        written = status.compute(resource(), cluster, None)
        assert (ready(written)["reason"], written["failure"]["reason"]) == ("RestartsExceeded", "WorkloadError")

    def test_what_the_deadline_ended_is_an_attempt_and_no_restart(self):
        cluster = observed(ended(75), child=job(condition="FailureTarget", reason="DeadlineExceeded"))
        written = status.compute(resource(activeDeadlineSeconds=60), cluster, None)
        assert ([one["pod"] for one in written["attempts"]], written["restarts"]["total"]) == (["poet-sft-a"], 0)

    def test_a_trouble_that_passed_is_forgotten(self):
        before = status.compute(resource(), observed(waiting("ErrImagePull", "not found"), child=job()), None)
        assert before["failure"]["reason"] == "ImageNotPullable"
        assert "failure" not in status.compute(resource(before), observed(running(), child=job()), None)


class TestInputsReady:
    @staticmethod
    def of(written: dict[str, Any]) -> tuple[str, str]:
        found = next(one for one in written["conditions"] if one["type"] == "InputsReady")
        return found["status"], found["reason"]

    def test_unknown_until_the_workload_has_read_them(self):
        assert self.of(status.compute(resource(), observed(), None)) == ("Unknown", "Pending")

    def test_true_from_the_first_step_on_and_after_a_restart(self):
        before = status.compute(resource(), observed(running(), child=job(), progress=TRAINING), None)
        assert self.of(before) == ("True", "Running")
        assert self.of(status.compute(resource(before), observed(ended(72), child=job()), None)) == ("True", "Running")

    def test_false_for_a_claim_or_a_path_that_is_missing(self):
        claim = status.compute(
            resource(), observed(unplaced('persistentvolumeclaim "data" not found'), child=job()), None
        )
        missing = Termination(reason=Reason.INPUT_NOT_FOUND, exit_code=66, message="no model")
        path = status.compute(resource(), observed(ended(66, says=missing), child=job()), None)
        assert (self.of(claim), self.of(path)) == (("False", "VolumeNotReady"), ("False", "InputNotFound"))


class TestTimes:
    def test_a_condition_remembers_since_when_it_holds(self):
        first = status.compute(resource(), observed(after=10), None)
        second = status.compute(resource(first), observed(running(), child=job(), after=50), None)
        third = status.compute(resource(second), observed(ended(0, says=DONE), child=job(), after=90), None)
        since = [
            {one["type"]: one["lastTransitionTime"] for one in each["conditions"]} for each in (first, second, third)
        ]
        assert [each["Reconciling"] for each in since] == [at(10), at(10), at(90)]
        assert [each["Failed"] for each in since] == [at(10), at(10), at(10)]

    def test_it_starts_with_its_first_pod(self):
        first = status.compute(resource(), observed(pod(made=5), child=job()), None)
        second = status.compute(resource(first), observed(running("b", made=50), child=job()), None)
        assert (first["startTime"], second["startTime"]) == (at(5), at(5))

    def test_when_time_alone_changes_something(self):
        done = status.compute(resource(), observed(ended(0, says=DONE, finished=60), child=job()), None)
        with_ttl = resource(done, ttlSecondsAfterFinished=100)
        assert status.requeue_after(with_ttl, observed(child=job(), after=90)) == timedelta(seconds=70)
        assert status.requeue_after(with_ttl, observed(after=90)) is None
        assert status.requeue_after(resource(done), observed(child=job(), after=90)) is None
        stopping = running(metadata={"deletionTimestamp": at(600)})
        assert status.requeue_after(resource(), observed(stopping, child=job(), after=100)) == timedelta(seconds=560)
        assert status.requeue_after(resource(), observed(running(), child=job(), after=100)) is None


def test_a_status_fits_the_model_that_the_crd_is_made_from():
    written = status.compute(resource(), observed(ended(65, says=BAD_ROW), child=job()), None)
    assert conditions.dump(Status.model_validate(written)) == written


def test_what_a_suspended_pod_saved_last_is_where_it_goes_on() -> None:
    """It saves once more when it is stopped, and only its last word tells of that."""
    saved = Termination(
        reason=Reason.INTERRUPTED,
        exit_code=75,
        message="stopped",
        checkpoint=Checkpoint(uri="pvc://x/run-a/checkpoint-45", step=45),
    )
    held = status.compute(resource(STARTED, suspend=True), observed(ended(75, says=saved), progress=TRAINING), None)
    assert held["checkpoint"] == {"uri": "pvc://x/run-a/checkpoint-45", "step": 45}
    assert ready(held)["message"] == "held by spec.suspend; set to false, it continues from the checkpoint at step 45"
    later = status.compute(resource(held, suspend=True), observed(progress=TRAINING), None)
    assert later["checkpoint"]["step"] == 45, "an older answer of /progress does not take it back"


def ran(uid: str, since: float, **metadata: Any) -> dict[str, Any]:
    """A child that runs since then."""
    child = job()
    return {**child, "metadata": {**child["metadata"], "uid": uid, **metadata}, "status": {"startTime": at(since)}}


def test_the_time_of_a_run_counts_once_when_it_is_told_to_stop_and_not_while_the_job_is_held() -> None:
    begun = status.compute(resource(STARTED), observed(running(), child=ran("a", 0), after=50), None)
    assert "activeTime" not in begun
    stops = status.compute(resource(begun, suspend=True), observed(running(), child=ran("a", 0), after=100), None)
    assert stops["activeTime"] == {"seconds": 100, "child": "a"}
    going = ran("a", 0, deletionTimestamp=at(120))
    stops = status.compute(resource(stops, suspend=True), observed(running(), child=going, after=110), None)
    assert stops["activeTime"] == {"seconds": 100, "child": "a"}
    waits = status.compute(resource(stops, suspend=True), observed(after=5000), None)
    again = status.compute(resource(waits, suspend=True), observed(running(), child=ran("b", 6000), after=6030), None)
    assert again["activeTime"] == {"seconds": 130, "child": "b"}


def test_a_checkpoint_beside_an_output_of_a_kilobyte_is_told() -> None:
    uri = f"pvc://models/{'m' * 1011}.checkpoints/run-{'0' * 36}/checkpoint-40"
    told = Progress.model_validate_json(
        f'{{"stage": "Training", "step": 41, "checkpoint": {{"uri": "{uri}", "step": 40}}}}'
    )
    written = status.compute(resource(), observed(running(), child=job(), progress=told, progress_at=START), None)
    assert written["checkpoint"] == {"uri": uri, "step": 40}
