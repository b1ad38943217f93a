"""Pure: (job, observed) -> the next status, and what the job wants of its children."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from alpaca_operator.api.contract import IGNORED, NEVER_RETRIED, Termination
from alpaca_operator.api.resource import Job
from alpaca_operator.api.status import (
    NEVER,
    ActiveTime,
    Attempt,
    Condition,
    ConditionStatus,
    NodesStatus,
    OutputStatus,
    ProgressStatus,
    Reason,
    ResolvedInput,
    Status,
)
from alpaca_operator.cluster.objects import Pod, parse_time
from alpaca_operator.diagnosis import changes_at, diagnose
from alpaca_operator.diagnosis.pod import is_spent
from alpaca_operator.exits import Exit
from alpaca_operator.jobs import figures, publications, several
from alpaca_operator.jobs.case import (
    ATTEMPTS_KEPT,
    Case,
    case_of,
    leftovers,
    out_of_restarts,
    pod_that_succeeded,
    termination_of,
)
from alpaca_operator.jobs.child import Child, child_of
from alpaca_operator.jobs.growth import next_look
from alpaca_operator.jobs.rescale import may_shrink
from alpaca_operator.jobs.ttl import ttl_end
from alpaca_operator.jobs.verdicts import judge
from alpaca_operator.outcomes.conditions import InputsReady, conditions, dump, inputs_ready, read, stamp
from alpaca_operator.outcomes.observed import Observed
from alpaca_operator.outcomes.verdict import Desired, Standing, Verdict, failure_of, while_unavailable

TRUE_WHEN: dict[Condition, frozenset[Standing]] = {
    Condition.READY: frozenset({Standing.DONE}),
    Condition.RECONCILING: frozenset({Standing.WORKING}),
    Condition.STALLED: frozenset({Standing.STUCK, Standing.FAILED}),
    Condition.SUSPENDED: frozenset({Standing.HELD}),
    Condition.COMPLETE: frozenset({Standing.DONE}),
    Condition.FAILED: frozenset({Standing.FAILED}),
}
"""Every condition but InputsReady is a view of the standing. All carry its reason; Ready and those that are True its message."""

INPUTS_READ = frozenset(
    {
        Reason.RUNNING,
        Reason.SUCCEEDED,
        Reason.REUSED,
        Reason.INVALID_DATA,
        Reason.LOSS_DIVERGED,
        Reason.GATE_FAILED,
    }
)
"""Reasons that make InputsReady True: the workload has read them."""


def is_terminal(resource: Job) -> bool:
    """Ended for good: Complete or Failed is True. Never undone, whatever becomes of the children."""
    return resource.status is not None and _is_final(resource.status)


def desired(resource: Job, observed: Observed) -> Desired:
    """What the children should do. A job is only given up after its status tells why: a crash in between loses nothing."""
    if resource.metadata.deletion_timestamp:
        return Desired.UNCHANGED  # the garbage collector deletes them
    if is_terminal(resource):
        return _desired_after_the_end(resource, observed)
    case = case_of(resource, observed, None)
    if judge(case).standing in (Standing.DONE, Standing.FAILED):
        return Desired.UNCHANGED  # also when it was suspended in its last moment: the end is told first
    if resource.spec.suspend:
        return Desired.ABSENT
    if case.overdue_since and case.child and not (case.child.keeps_deadline or case.child.ends_by_itself):
        return Desired.STOPPED
    if case.child and case.child.size != resource.size:
        return Desired.ABSENT
    if leftovers(observed) or observed.missing:
        return Desired.UNCHANGED
    return Desired.PRESENT


def compute(resource: Job, observed: Observed, exit: Exit | None) -> dict[str, Any]:
    """The whole next status, camelCase, without absent fields; equal to the present one when nothing happened.

    ``exit`` is why its children could not be made as desired.
    """
    before = resource.status or Status()
    generation = resource.metadata.generation or 0
    if is_terminal(resource):
        ended = before.model_copy(update={"observed_generation": generation})
        return dump(publications.told(resource, observed, exit, ended))
    case = case_of(resource, observed, exit)
    verdict = while_unavailable(judge(case), exit)
    termination = _final_termination(case, verdict)
    after = Status(
        observed_generation=generation,
        conditions=_conditions(case, verdict, generation),
        restarts=case.restarts,
        nodes=_nodes(case, verdict),
        active_time=_active_time(case),
        progress=_progress(case, verdict, termination),
        metrics=_metrics(termination) or before.metrics,
        resolved_inputs=_inputs(case, termination),
        resolved_policy=_policy(case, termination) or before.resolved_policy,
        checkpoint=None if verdict.standing is Standing.DONE else case.checkpoint,  # removed by what published
        output=_output(resource, termination) or before.output,
        failure=failure_of(verdict.cause),
        attempts=_attempts(case),
        start_time=before.start_time or _first_pod_made(observed),
        completion_time=verdict.ended_at,
    )
    return dump(after)


def spent(observed: Observed) -> list[Pod]:
    """Pods whose workload has ended and that others keep going: to be ended, so that the Job hears of it and the node is free."""
    return [pod for pod in observed.pods if is_spent(pod) and "activeDeadlineSeconds" not in pod.spec]


def is_final(written: dict[str, Any]) -> bool:
    """Whether a computed status ends the resource for good."""
    return _is_final(read(Status, written))


def counts(job: Job, after: dict[str, Any]) -> bool:
    """Whether a computed status tells of an attempt that the present one does not know."""
    known = {attempt.uid for attempt in (job.status or Status()).attempts}
    return any(attempt.get("uid") not in known for attempt in after.get("attempts", ()))


def requeue_after(resource: Job, observed: Observed) -> timedelta | None:
    """When time alone will change something, the time until then."""
    if is_terminal(resource):
        moments = [ttl_end(resource)] if observed.child or observed.pusher else []
    else:
        moments = [changes_at(pod, observed.now) for pod in observed.pods]
        if child := child_of(observed):
            own = [pod for pod in observed.pods if child.owns(pod)]
            moments.append(several.gathers_until(own, child.size))
            moments += [child.deadline(resource.seconds_left), None if observed.jobs else child.begins_by]
            if may_shrink(resource) and (short := case_of(resource, observed, None).shortage):
                moments.append(short.ends_at)
        moments.append(next_look(resource, observed))
    ahead = [moment - observed.now for moment in moments if moment and moment > observed.now]
    return min(ahead, default=None)


def may_wait(resource: Job, observed: Observed) -> timedelta | None:
    """The first status of pods that start together: in a moment they all run, and one write tells of all of it."""
    if resource.status is not None and resource.status.observed_generation != NEVER:
        return None
    case = case_of(resource, observed, None)
    if case.child is None or case.child.size == 1:
        return None
    verdict = judge(case)
    if verdict.reason is not Reason.PENDING or verdict.cause is not None:
        return None
    gathered = several.gathers_until(case.pods, case.child.size)
    until = max(case.child.starts_by, gathered or case.child.starts_by)
    return until - observed.now if until > observed.now else None


def _desired_after_the_end(resource: Job, observed: Observed) -> Desired:
    """Failed by our own count, the child must stop; after the TTL it must go. Its own TTL is not used: a child that is
    gone before its end was recorded would be run again."""
    end, child = ttl_end(resource), child_of(observed)
    if child is None or child.is_being_deleted:
        return Desired.UNCHANGED
    if end is not None and observed.now >= end:
        return Desired.ABSENT
    if child.has_ended:
        return Desired.UNCHANGED
    status = resource.status or Status()
    if status.failure is None:
        return Desired.STOPPED if _is_taken_for_a_failure(observed, child) else Desired.UNCHANGED
    # The child ends by itself at these exit codes (podFailurePolicy), above its own limit, and after its deadline; stopping it
    # too would be one write for nothing.
    counted = tuple(one for one in case_of(resource, observed, None).ended if one.exit_code not in IGNORED)
    by_itself = status.failure.exit_code in NEVER_RETRIED or out_of_restarts(child, counted) or child.ends_by_itself
    # A pod whose container has ended and whose phase has not: ended now, the Job would delete it with its log.
    dying = any(_ends(pod, observed.now) for pod in observed.pods)
    return Desired.UNCHANGED if by_itself or dying else Desired.STOPPED


def _is_taken_for_a_failure(observed: Observed, child: Child) -> bool:
    """Whether the child would run once more what is done: the pod failed by what became of containers that others put into it, or another
    failed that worked with it."""
    done = pod_that_succeeded(observed)
    return done is not None and any(
        pod.phase == "Failed" and child.attempt_of(pod) == child.attempt_of(done) for pod in observed.pods
    )


def _ends(pod: Pod, now: datetime) -> bool:
    found = diagnose(pod, now)
    return found is not None and found.ended and not pod.is_over


def _active_time(case: Case) -> ActiveTime | None:
    """With the present child, once, when it is told to stop: the next one has what is left of the deadline."""
    before, child = case.before.active_time, case.child
    if child is None or not (case.resource.spec.suspend or child.is_being_deleted):
        return before
    if before is not None and before.child == child.uid:
        return before
    began = child.started_at
    seconds = int((case.observed.now - parse_time(began)).total_seconds()) if began else 0
    return ActiveTime(seconds=max(seconds, 0) + (before.seconds if before else 0), child=child.uid)


def _nodes(case: Case, verdict: Verdict) -> NodesStatus | None:
    """While several pods work, or are to."""
    total = case.next_size
    grown = ((case.before.nodes and case.before.nodes.grown) or 0) + (total > case.resource.size)
    began = case.child or total < case.resource.nodes or grown
    # Stuck, it goes on with as many as before; held, it asks for all of them again.
    if case.resource.nodes == 1 or not began or verdict.standing not in (Standing.WORKING, Standing.STUCK):
        return None
    ready = sum(pod.is_ready for pod in case.pods)
    return NodesStatus(ready=ready, total=total, display=f"{ready}/{total}", grown=grown or None)


def _attempts(case: Case) -> list[Attempt]:
    new = [
        Attempt.model_validate(
            {
                "pod": one.pod,
                "uid": one.uid,
                "class": one.failure_class,
                "reason": one.reason.value,
                "exitCode": one.exit_code,
                "finishedAt": one.finished_at,
                "message": one.message,
            }
        )
        for one in case.unrecorded
    ]
    return [*case.before.attempts, *new][-ATTEMPTS_KEPT:]


def _conditions(case: Case, verdict: Verdict, generation: int) -> list[ConditionStatus]:
    states = {kind: verdict.standing in standings for kind, standings in TRUE_WHEN.items()}
    missing = case.observed.missing if case.child is None else None
    inputs = inputs_ready(missing, verdict, _inputs_read(case, verdict))
    return conditions(case.before, case.observed.now, generation, verdict, states, inputs)


def _inputs_read(case: Case, verdict: Verdict) -> InputsReady:
    before = next((one for one in case.before.conditions if one.type == Condition.INPUTS_READY), None)
    if verdict.reason in INPUTS_READ:
        return "True", Reason.RUNNING, "the workload has read its inputs"
    if before is not None and before.status == "True":
        return "True", Reason.RUNNING, before.message
    return "Unknown", Reason.PENDING, "the workload has not read its inputs yet"


def _progress(case: Case, verdict: Verdict, termination: Termination | None) -> ProgressStatus | None:
    before, reported = case.before.progress, case.observed.progress
    if verdict.standing is Standing.DONE:
        return figures.final(termination, before)
    now = (
        before if reported is None else figures.running(reported, stamp(case.observed.progress_at or case.observed.now))
    )
    return now if verdict.reason is Reason.RUNNING else figures.resting(now)


def _final_termination(case: Case, verdict: Verdict) -> Termination | None:
    """What the pod that settled the job said last."""
    if verdict.standing is Standing.DONE:
        done = pod_that_succeeded(case.observed)
        return termination_of(done)
    return case.last.termination if case.last else None


def _metrics(termination: Termination | None) -> dict[str, float | None] | None:
    """Without those that are no numbers: the CRD's map has numbers only. Why they are none, the reason tells."""
    reported = (termination and termination.metrics) or {}
    finite = {name: value for name, value in reported.items() if value is not None and math.isfinite(value)}
    return {name: figures.metric(value) for name, value in finite.items()} or None


def _inputs(case: Case, termination: Termination | None) -> dict[str, ResolvedInput] | None:
    """What other jobs had made when this one started, and all that its workload has read since."""
    known = dict(case.before.resolved_inputs or {})
    if case.child is not None:
        known |= case.observed.inputs
    for field, found in ((termination and termination.resolved_inputs) or {}).items():
        producer = known[field].producer_uid if field in known else None
        known[field] = ResolvedInput(uri=found.uri, digest=found.digest, producer_uid=producer)
    return known or None


def _policy(case: Case, termination: Termination | None) -> dict[str, Any] | None:
    return (
        (termination and termination.resolved_policy)
        or (case.observed.progress and case.observed.progress.resolved_policy)
        or None
    )


def _output(resource: Job, termination: Termination | None) -> OutputStatus | None:
    """What lies where the spec says: a pod does not choose what others read."""
    if termination is None or termination.output is None:
        return None
    told = termination.output.model_copy(update={"uri": resource.spec.output.uri})
    return OutputStatus.model_validate(told.model_dump(by_alias=True))


def _first_pod_made(observed: Observed) -> str | None:
    return min(
        (pod.created_at for pod in observed.pods if pod.created_at),
        default=None,
    )


def _is_final(status: Status) -> bool:
    return any(one.type in (Condition.COMPLETE, Condition.FAILED) and one.status == "True" for one in status.conditions)
