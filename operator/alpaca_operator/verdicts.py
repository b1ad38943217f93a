"""Pure: where a resource stands, by an ordered list of small judgements, each with its reason and its line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from typing import Any

from alpaca_operator.api.base import Job
from alpaca_operator.api.contract import KUEUE_PREFIX, Progress, Termination
from alpaca_operator.api.status import CheckpointStatus, Condition, Reason, Restarts, Status
from alpaca_operator.conditions import stamp
from alpaca_operator.diagnosis import Diagnosis, Refusal, diagnose, parse_last_word
from alpaca_operator.inputs import Inputs, Lack
from alpaca_operator.traffic import Sample
from alpaca_operator.updates import Held

Object = dict[str, Any]

DEADLINE = "DeadlineExceeded"
"""The Job controller's word for it."""
ATTEMPTS_KEPT = 32
"""As many as `status.attempts` may hold."""


class Standing(Enum):
    """Where a resource stands, as kstatus distinguishes."""

    WORKING = auto()
    """Work goes on, or is waited for."""
    HELD = auto()
    """By `spec.suspend`."""
    STUCK = auto()
    """Only a person can help; then it goes on."""
    DONE = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class Seen:
    """The cluster as one reconcile sees it."""

    now: datetime
    child: Object | None = None
    pods: tuple[Object, ...] = ()
    """Oldest first."""
    progress: Progress | None = None
    """What the running pod last told."""
    progress_at: datetime | None = None
    refusal: Refusal | None = None
    """Why the child has no pod, where its controller was refused one."""
    inputs: Inputs = field(default_factory=dict)
    """Those that other jobs make: as they were at the start, or as they are now before it."""
    lack: Lack | None = None
    """Why not all of those are there."""
    held: Held | None = None
    """What a deployment could serve of them, and does not."""
    others: tuple[Object, ...] = ()
    """Children that make no pods."""
    traffic: tuple[tuple[Sample, datetime], ...] = ()
    """What the pods of a deployment last told."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where the resource stands, and the line that says why."""

    standing: Standing
    reason: Reason
    message: str
    cause: Diagnosis | Refusal | None = None
    """What `status.failure` tells."""
    ended_at: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A resource, what was seen of it, and what follows from both: read by every verdict."""

    resource: Job
    seen: Seen
    refusal: Refusal | None
    before: Status
    ended: tuple[Diagnosis, ...]
    """Attempts of the present child that failed, oldest first."""
    fresh: tuple[Diagnosis, ...]
    """Those of them that the status does not know yet."""
    live: Object | None
    """The newest pod that has not ended."""
    trouble: Diagnosis | None
    """What the live pod waits for."""
    restarts: Restarts
    """As they are with the fresh attempts. `user` is never above `maxRestarts`: the last failure is no restart."""
    infra: int
    """Disruptions, without that limit."""

    @property
    def child(self) -> Object | None:
        return self.seen.child

    @property
    def last(self) -> Diagnosis | None:
        """The newest attempt of the present child that failed; an evicted pod is gone by the time that the next one starts."""
        return self.ended[-1] if self.ended else _remembered(self.before, self.child)

    @property
    def checkpoint(self) -> CheckpointStatus | None:
        """The furthest that was told of: a pod that is stopped saves once more, and says so in its last word alone."""
        words = [word.checkpoint for pod in self.seen.pods if (word := last_word(pod))]  # suspended ones too
        told = self.seen.progress.checkpoint if self.seen.progress else None
        known = [CheckpointStatus(uri=one.uri, step=one.step) for one in (*words, told) if one]
        return max([*known, *filter(None, [self.before.checkpoint])], key=lambda one: one.step, default=None)

    @property
    def going_on(self) -> str:
        """From where the next pod starts."""
        at = self.checkpoint
        return (
            f"continues from the checkpoint at step {at.step}"
            if at
            else "starts from the newest checkpoint, if there is one"
        )


def succeeded(case: Case) -> Verdict | None:
    """A pod that ended well settles it, also when its child was deleted in the same moment: the output is published."""
    done = pod_that_succeeded(case.seen)
    complete = child_condition(case.child, "Complete")
    if done is None and complete is None:
        return None
    output = case.resource.spec.output.uri
    word = last_word(done)
    finished = _finished(done) or (case.child or {}).get("status", {}).get("completionTime") or stamp(case.seen.now)
    if word and word.reason is Reason.REUSED:
        message = f"{output} already holds the result of the same spec and inputs: nothing was run"
        return Verdict(Standing.DONE, Reason.REUSED, message, ended_at=finished)
    return Verdict(Standing.DONE, Reason.SUCCEEDED, f"published {output}", ended_at=finished)


def not_worth_retrying(case: Case) -> Verdict | None:
    """The next run would fail alike."""
    if case.last is None or case.last.retried:
        return None
    return _failed(case, case.last.reason, case.last.message, case.last)


def too_many_disruptions(case: Case) -> Verdict | None:
    """The Job counts only failures; disruptions are counted here."""
    limit = case.resource.spec.failure_policy.max_infra_restarts
    if case.infra <= limit or case.last is None:
        return None
    message = (
        f"gave up after {_times(limit, 'restart')} by disruption (failurePolicy.maxInfraRestarts), the last: {case.last.message}. "
        f"A job of another name with the same output {case.going_on}"
    )
    return _failed(case, Reason.RESTARTS_EXCEEDED, message, case.last)


def too_many_failures(case: Case) -> Verdict | None:
    """As the Job controller counts, a moment before it says so: no next pod is promised in between."""
    if case.last is None or not out_of_restarts(case.child, case.ended):
        return None
    return _gave_up(case, case.last, case.last.finished_at)


def deadline_passed(case: Case) -> Verdict | None:
    """The Job controller stops the pod; its last word is waited for."""
    failed = giving_up(case.child, DEADLINE)
    if failed is None:
        return None
    limit = case.resource.spec.active_deadline_seconds
    if case.live is not None:
        name = case.live["metadata"]["name"]
        message = (
            f"still running after activeDeadlineSeconds ({limit} s): pod {name} stops, a running step is saved first"
        )
        return Verdict(Standing.WORKING, Reason.STOPPING, message)
    message = (
        f"still running after activeDeadlineSeconds ({limit} s): a job of another name with a longer one and the same "
        f"output {case.going_on}"
    )
    at = failed.get("lastTransitionTime")
    return _failed(case, Reason.DEADLINE_EXCEEDED, message, Refusal(Reason.DEADLINE_EXCEEDED, message), at)


def child_failed(case: Case) -> Verdict | None:
    """The Job controller gave up."""
    failed = child_condition(case.child, "Failed")
    if failed is None:
        return None
    at = failed.get("lastTransitionTime")
    if case.last is None:
        message = f"its Job failed and left no pod to ask ({failed.get('reason')}: {failed.get('message', '')})"
        return _failed(case, Reason.WORKLOAD_ERROR, message, Diagnosis("Internal", Reason.WORKLOAD_ERROR, message), at)
    if failed.get("reason") == "BackoffLimitExceeded":
        return _gave_up(case, case.last, at)
    return _failed(case, case.last.reason, case.last.message, case.last, at)


def _gave_up(case: Case, last: Diagnosis, at: str | None) -> Verdict:
    limit = case.resource.spec.failure_policy.max_restarts
    if limit == 0:
        return _failed(case, last.reason, last.message, last, at)
    message = f"gave up after {_times(limit, 'restart')} (failurePolicy.maxRestarts), the last: {last.message}"
    return _failed(case, Reason.RESTARTS_EXCEEDED, message, last, at)


def suspended(case: Case) -> Verdict | None:
    if not case.resource.spec.suspend:
        return None
    if case.child is not None or case.live is not None:
        who = f"pod {case.live['metadata']['name']} " if case.live else "its Job "
        return Verdict(
            Standing.WORKING, Reason.STOPPING, f"spec.suspend is true: {who}stops, a running step is saved first"
        )
    resume = f"; set to false, it {case.going_on}" if case.before.start_time else ": set it to false to start"
    return Verdict(Standing.HELD, Reason.SUSPENDED, f"held by spec.suspend{resume}")


def old_pods_stop(case: Case) -> Verdict | None:
    """Nothing new is made next to a pod that still saves."""
    pods = leftovers(case.seen)
    if not pods:
        return None
    if case.trouble and case.trouble.reason is Reason.DISRUPTED:
        return Verdict(Standing.WORKING, Reason.STOPPING, case.trouble.message, case.trouble)
    return Verdict(Standing.WORKING, Reason.STOPPING, f"waits for {', '.join(pods)} to stop, then {case.going_on}")


def inputs_lacking(case: Case) -> Verdict | None:
    """Nothing is made before everything that it reads is there."""
    lack = case.seen.lack
    if lack is None or case.child is not None:
        return None
    if lack.passes:
        return Verdict(Standing.WORKING, lack.reason, lack.message)
    return Verdict(Standing.STUCK, lack.reason, lack.message, Refusal(lack.reason, lack.message))


def refused(case: Case) -> Verdict | None:
    refusal = case.refusal or (case.seen.refusal if case.live is None else None)
    if refusal is None:
        return None
    standing = Standing.WORKING if refusal.passes else Standing.STUCK
    return Verdict(standing, refusal.reason, refusal.message, refusal)


def child_lost(case: Case) -> Verdict | None:
    """Its pods were there once, the child is not, and nobody asked for that."""
    held = _ready_reason(case.before) in (Reason.SUSPENDED, Reason.STOPPING)
    if case.child is not None or not case.before.start_time or held:
        return None
    return Verdict(
        Standing.WORKING,
        Reason.CHILD_LOST,
        f"its Job was deleted by someone else and is made again; it {case.going_on}",
    )


def queued(case: Case) -> Verdict | None:
    """Kueue suspends the Job until there is room. We never touch that field."""
    if case.child is None or not case.child["spec"].get("suspend"):
        return None
    queue = case.resource.metadata.labels.get(f"{KUEUE_PREFIX}queue-name")
    if queue is None:
        name = case.child["metadata"]["name"]
        message = f"its Job {name} was suspended by someone else: set spec.suspend of the Job to false"
    elif case.before.start_time:
        message = f"waits for room in Kueue's queue {queue}, then {case.going_on}"
    else:
        message = f"waits for room in Kueue's queue {queue}: kubectl get workloads shows its place"
    return Verdict(Standing.WORKING, Reason.QUEUED, message)


def pod_troubled(case: Case) -> Verdict | None:
    """A pod that cannot start: it may pass by itself, so work counts as going on."""
    if case.trouble is None:
        return None
    return Verdict(Standing.WORKING, case.trouble.reason, case.trouble.message, case.trouble)


def pod_stops(case: Case) -> Verdict | None:
    if case.live is None or not case.live["metadata"].get("deletionTimestamp"):
        return None
    name = case.live["metadata"]["name"]
    return Verdict(Standing.WORKING, Reason.STOPPING, f"pod {name} was told to stop; a running step is saved first")


def pod_runs(case: Case) -> Verdict | None:
    """Running from the first step on; what comes before is starting, and says so."""
    if case.live is None or case.live.get("status", {}).get("phase") != "Running":
        return None
    pod, node = case.live["metadata"]["name"], case.live.get("spec", {}).get("nodeName", "")
    progress = case.seen.progress
    if progress is None:
        steps = _ready_reason(case.before) == Reason.RUNNING
    else:
        steps = progress.stage not in ("Loading", "Preparing")
    if steps:
        return Verdict(Standing.WORKING, Reason.RUNNING, f"pod {pod} runs on node {node}")
    return Verdict(Standing.WORKING, Reason.STARTING, f"pod {pod} on node {node} loads model and data")


def restarting(case: Case) -> Verdict | None:
    """Until the next pod runs."""
    if case.last is None:
        return None
    limits = case.resource.spec.failure_policy
    if case.last.failure_class == "Infrastructure":
        count = f"{case.restarts.infra} of {limits.max_infra_restarts}, failurePolicy.maxInfraRestarts"
    else:
        count = f"{case.restarts.user} of {limits.max_restarts}, failurePolicy.maxRestarts"
    message = f"{case.last.message}; the next pod {case.going_on} (restart {count})"
    return Verdict(Standing.WORKING, Reason.RESTARTING, message, case.last)


def pending(case: Case) -> Verdict:
    return Verdict(Standing.WORKING, Reason.PENDING, "waits for its pod to start")


VERDICTS: tuple[Callable[[Case], Verdict | None], ...] = (
    succeeded,  # before any failure: what is published is published
    not_worth_retrying,
    too_many_disruptions,
    too_many_failures,
    deadline_passed,
    child_failed,
    suspended,  # after the ends: suspending a finished job does not undo it
    old_pods_stop,
    inputs_lacking,
    refused,
    child_lost,
    queued,
    pod_troubled,
    pod_stops,
    pod_runs,
    restarting,
    pending,
)
"""The first that speaks wins."""


def judge(case: Case) -> Verdict:
    return next(verdict for check in VERDICTS if (verdict := check(case)))


# --- What follows from what was seen ---------------------------------------------------------------------------------


def case_of(resource: Job, seen: Seen, refusal: Refusal | None) -> Case:
    before = resource.status or Status()
    uid = (seen.child or {}).get("metadata", {}).get("uid")
    diagnosed = [(pod, diagnose(pod, seen.now)) for pod in seen.pods]
    # A pod of a deleted child, or one that was suspended away, stopped because we asked: no failure.
    mine = [found for pod, found in diagnosed if found and found.ended and uid and _owner(pod) == uid]
    ended = [] if resource.spec.suspend else sorted(mine, key=lambda found: found.finished_at or "")
    fresh = tuple(found for found in ended if not _known(before, found))
    running = [(pod, found) for pod, found in diagnosed if _is_live(pod, found)]
    live, trouble = running[-1] if running else (None, None)
    # After the deadline no pod follows: what became of the last one is no restart.
    followed = () if giving_up(seen.child, DEADLINE) else fresh
    infra = (before.restarts or Restarts()).infra + sum(one.failure_class == "Infrastructure" for one in followed)
    return Case(
        resource=resource,
        seen=seen,
        refusal=refusal,
        before=before,
        ended=tuple(ended),
        fresh=fresh,
        live=live,
        trouble=trouble,
        restarts=_restarts(resource, before, followed, infra),
        infra=infra,
    )


def out_of_restarts(child: Object | None, ended: tuple[Diagnosis, ...]) -> bool:
    """Whether the Job controller gives up by itself, for what it counts is above its limit."""
    counted = sum(one.retried and one.failure_class != "Infrastructure" for one in ended)
    return child is not None and counted > child["spec"].get("backoffLimit", 6)


def leftovers(seen: Seen) -> list[str]:
    """What must be gone before a child is made: a child that is being deleted, pods of an earlier one."""
    child = (seen.child or {}).get("metadata", {})
    pods = [pod for pod in seen.pods if _is_live(pod, diagnose(pod, seen.now)) and _owner(pod) != child.get("uid")]
    names = [f"pod {pod['metadata']['name']}" for pod in pods]
    if child.get("deletionTimestamp"):
        names.append(f"Job {child['name']}")
    return names


def _restarts(resource: Job, before: Status, fresh: tuple[Diagnosis, ...], infra: int) -> Restarts:
    limits = resource.spec.failure_policy
    had = before.restarts or Restarts()
    user = had.user + sum(one.retried and one.failure_class != "Infrastructure" for one in fresh)
    user, infra = min(user, limits.max_restarts), min(infra, limits.max_infra_restarts)
    return Restarts(user=user, infra=infra, total=user + infra)


def _remembered(before: Status, child: Object | None) -> Diagnosis | None:
    """The last attempt that the status has, if it was one of this child and no pod has run since: how a later pod ended, of which
    nothing is left, is not known."""
    made = (child or {}).get("metadata", {}).get("creationTimestamp", "")
    if child is None or not before.attempts or (before.attempts[-1].finished_at or "") < made:
        return None
    if _ready_reason(before) != Reason.RESTARTING:
        return None
    last = before.attempts[-1]
    return Diagnosis(
        last.failure_class or "Internal",
        next(
            (reason for reason in Reason if reason == last.reason), Reason.WORKLOAD_ERROR
        ),  # a newer operator has more
        last.message,
        exit_code=last.exit_code,
        pod=last.pod,
        uid=last.uid,
        finished_at=last.finished_at,
    )


def _known(before: Status, found: Diagnosis) -> bool:
    """Recorded already; or older than all that are kept, so recorded and dropped since."""
    kept = before.attempts
    if any(attempt.uid == found.uid for attempt in kept):
        return True
    return len(kept) >= ATTEMPTS_KEPT and (found.finished_at or "") < (kept[0].finished_at or "")


def _failed(case: Case, reason: Reason, message: str, cause: Diagnosis | Refusal, at: str | None = None) -> Verdict:
    ended = at or (case.last and case.last.finished_at) or stamp(case.seen.now)
    return Verdict(Standing.FAILED, reason, message, cause, ended_at=ended)


# --- Reading ---------------------------------------------------------------------------------------------------------


def _owner(pod: Object) -> str | None:
    owners: list[Object] = pod["metadata"].get("ownerReferences") or []
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), None)


def _is_live(pod: Object, found: Diagnosis | None) -> bool:
    return pod.get("status", {}).get("phase") not in ("Succeeded", "Failed") and not (found and found.ended)


def child_condition(child: Object | None, kind: str) -> Object | None:
    conditions: list[Object] = (child or {}).get("status", {}).get("conditions") or []
    return next((one for one in conditions if one.get("type") == kind and one.get("status") == "True"), None)


def giving_up(child: Object | None, reason: str) -> Object | None:
    """The condition that the child has failed, or will have once its pods have stopped, for this reason."""
    found = child_condition(child, "Failed") or child_condition(child, "FailureTarget")
    return found if found and found.get("reason") == reason else None


def last_word(pod: Object | None) -> Termination | None:
    states = [
        (one.get("state") or {}).get("terminated")
        for one in ((pod or {}).get("status", {}).get("containerStatuses") or [])
    ]
    words = [parse_last_word(state.get("message")) for state in states if state]
    return next((word for word in words if word), None)


def pod_that_succeeded(seen: Seen) -> Object | None:
    return next((pod for pod in seen.pods if pod.get("status", {}).get("phase") == "Succeeded"), None)


def _finished(pod: Object | None) -> str | None:
    states = [
        (one.get("state") or {}).get("terminated")
        for one in ((pod or {}).get("status", {}).get("containerStatuses") or [])
    ]
    return max((str(state["finishedAt"]) for state in states if state and state.get("finishedAt")), default=None)


def _ready_reason(status: Status) -> str | None:
    return next((one.reason for one in status.conditions if one.type == Condition.READY), None)


def _times(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
