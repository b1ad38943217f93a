"""Pure: (resource, seen) -> the next status, and what the resource wants of its children."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any

from alpaca_operator.api import Resource
from alpaca_operator.api.contract import KUEUE_PREFIX, NEVER_RETRIED, Progress, Termination
from alpaca_operator.api.status import (
    Attempt,
    CheckpointStatus,
    Condition,
    ConditionStatus,
    Failure,
    OutputStatus,
    ProgressStatus,
    Reason,
    ResolvedInput,
    Restarts,
    Status,
)
from alpaca_operator.diagnosis import SILENCE, Diagnosis, Refusal, diagnose, instant, parse_last_word

Object = dict[str, Any]


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


TRUE_WHEN: dict[Condition, frozenset[Standing]] = {
    Condition.READY: frozenset({Standing.DONE}),
    Condition.RECONCILING: frozenset({Standing.WORKING}),
    Condition.STALLED: frozenset({Standing.STUCK, Standing.FAILED}),
    Condition.SUSPENDED: frozenset({Standing.HELD}),
    Condition.COMPLETE: frozenset({Standing.DONE}),
    Condition.FAILED: frozenset({Standing.FAILED}),
}
"""Every condition but InputsReady is a view of the standing. All carry its reason; Ready and those that are True its message."""

INPUTS_MISSING = frozenset({Reason.INPUT_NOT_FOUND, Reason.VOLUME_NOT_READY})
"""Reasons that make InputsReady False."""
INPUTS_READ = frozenset({Reason.RUNNING, Reason.SUCCEEDED, Reason.REUSED, Reason.INVALID_DATA, Reason.LOSS_DIVERGED})
"""Reasons that make InputsReady True: the workload has read them."""

ATTEMPTS_KEPT = 32
"""As many as `status.attempts` may hold."""


class Wish(Enum):
    """What a resource wants of its children."""

    EXIST = auto()
    """They must exist: missing ones are made."""
    STAY = auto()
    """What exists may stay, nothing is made."""
    END = auto()
    """What runs must stop and not start again; what has ended stays for its logs."""
    GO = auto()
    """They must not exist: they are deleted, and their pods with them."""


class Change(Enum):
    """What a new status changes."""

    NOTHING = auto()
    PROGRESS = auto()
    """Figures only; may wait for the budget of writes."""
    TRANSITION = auto()
    """A condition, an attempt, a result: written at once."""


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
    inputs: Mapping[str, ResolvedInput] = field(default_factory=dict)


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

    resource: Resource
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
        return self.ended[-1] if self.ended else None

    @property
    def checkpoint(self) -> CheckpointStatus | None:
        words = [one.last_word.checkpoint for one in reversed(self.ended) if one.last_word and one.last_word.checkpoint]
        told = self.seen.progress and self.seen.progress.checkpoint
        newest = told or (words[0] if words else None)
        return CheckpointStatus(uri=newest.uri, step=newest.step) if newest else self.before.checkpoint

    @property
    def going_on(self) -> str:
        """From where the next pod starts."""
        at = self.checkpoint
        return (
            f"continues from the checkpoint at step {at.step}"
            if at
            else "starts from the newest checkpoint, if there is one"
        )


def is_terminal(resource: Resource) -> bool:
    """Ended for good: Complete or Failed is True. Never undone, whatever becomes of the children."""
    return resource.status is not None and _is_final(resource.status)


def wish(resource: Resource, seen: Seen) -> Wish:
    """What the children should do. A job is only given up after its status tells why: a crash in between loses nothing."""
    if resource.metadata.deletion_timestamp:
        return Wish.STAY  # the garbage collector deletes them
    if is_terminal(resource):
        return _wish_after_the_end(resource, seen)
    if resource.spec.suspend:
        return Wish.GO
    if judge(case_of(resource, seen, None)).standing in (Standing.DONE, Standing.FAILED) or leftovers(seen):
        return Wish.STAY
    return Wish.EXIST


def compute(resource: Resource, seen: Seen, refusal: Refusal | None) -> dict[str, Any]:
    """The whole next status, camelCase, without absent fields; equal to the present one when nothing happened.

    ``refusal`` is why a child could not be made just now.
    """
    before = resource.status or Status()
    generation = resource.metadata.generation or 0
    if is_terminal(resource):
        return dump(before.model_copy(update={"observed_generation": generation}))
    case = case_of(resource, seen, refusal)
    verdict = judge(case)
    word = _final_word(case, verdict)
    after = Status(
        observed_generation=generation,
        conditions=_conditions(case, verdict, generation),
        restarts=case.restarts,
        progress=_progress(case, verdict, word),
        metrics=_metrics(word) or before.metrics,
        resolved_inputs=_inputs(case, word) or before.resolved_inputs,
        resolved_policy=_policy(case, word) or before.resolved_policy,
        checkpoint=case.checkpoint,
        output=_output(word) or before.output,
        failure=_failure(verdict),
        attempts=_attempts(case),
        start_time=before.start_time or _first_pod_made(seen),
        completion_time=verdict.ended_at,
    )
    return dump(after)


def is_final(written: dict[str, Any]) -> bool:
    """Whether a computed status ends the resource for good."""
    return _is_final(Status.model_validate(written))


def change(before: dict[str, Any], after: dict[str, Any]) -> Change:
    """What writing ``after`` in place of ``before`` would change; ``before`` may lack or carry defaults."""
    present = dump(Status.model_validate(before))
    # That the first pod is there is told with what it does next: by itself it is not worth a write.
    if _without(present, ("startTime",)) == _without(after, ("startTime",)):
        return Change.NOTHING
    figures = ("progress", "checkpoint")
    same = _without(present, figures) == _without(after, figures)
    return Change.PROGRESS if same else Change.TRANSITION


def look_again(resource: Resource, seen: Seen) -> timedelta | None:
    """When time alone will change something, the time until then."""
    moments = [_ttl_end(resource)] if is_terminal(resource) and seen.child else []
    if not is_terminal(resource):
        stamps = [pod["metadata"].get("deletionTimestamp") for pod in seen.pods]
        moments += [instant(stamp) + SILENCE for stamp in stamps if stamp]
    ahead = [moment - seen.now for moment in moments if moment and moment > seen.now]
    return min(ahead, default=None)


def dump(status: Status) -> dict[str, Any]:
    """As it is written to the API server: camelCase, absent fields left out, NaN and infinities as null."""
    written: dict[str, Any] = _finite(status.model_dump(by_alias=True, exclude_none=True, mode="json"))
    if not written["attempts"]:
        del written["attempts"]
    return written


# --- Verdicts --------------------------------------------------------------------------------------------------------


def succeeded(case: Case) -> Verdict | None:
    """A pod that ended well settles it, also when its child was deleted in the same moment: the output is published."""
    done = next((pod for pod in case.seen.pods if pod.get("status", {}).get("phase") == "Succeeded"), None)
    complete = _condition(case.child, "Complete")
    if done is None and complete is None:
        return None
    output = case.resource.spec.output.uri
    word = _word_of(done)
    finished = _finished(done) or (case.child or {}).get("status", {}).get("completionTime") or _stamp(case.seen.now)
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


def child_failed(case: Case) -> Verdict | None:
    """The Job controller gave up: its own reason decides between a deadline and a failure."""
    failed = _condition(case.child, "Failed")
    if failed is None:
        return None
    at = failed.get("lastTransitionTime")
    if failed.get("reason") == "DeadlineExceeded":
        limit = case.resource.spec.active_deadline_seconds
        message = (
            f"still running after activeDeadlineSeconds ({limit} s): a job of another name with a longer one and the same "
            f"output {case.going_on}"
        )
        return _failed(case, Reason.DEADLINE_EXCEEDED, message, Refusal(Reason.DEADLINE_EXCEEDED, message), at)
    if case.last is None:
        message = f"its Job failed and left no pod to ask ({failed.get('reason')}: {failed.get('message', '')})"
        return _failed(case, Reason.WORKLOAD_ERROR, message, Diagnosis("Internal", Reason.WORKLOAD_ERROR, message), at)
    limit = case.resource.spec.failure_policy.max_restarts
    if failed.get("reason") == "BackoffLimitExceeded" and limit:
        message = f"gave up after {_times(limit, 'restart')} (failurePolicy.maxRestarts), the last: {case.last.message}"
        return _failed(case, Reason.RESTARTS_EXCEEDED, message, case.last, at)
    return _failed(case, case.last.reason, case.last.message, case.last, at)


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
    child_failed,
    suspended,  # after the ends: suspending a finished job does not undo it
    old_pods_stop,
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


def case_of(resource: Resource, seen: Seen, refusal: Refusal | None) -> Case:
    before = resource.status or Status()
    uid = (seen.child or {}).get("metadata", {}).get("uid")
    diagnosed = [(pod, diagnose(pod, seen.now)) for pod in seen.pods]
    # A pod of a deleted child, or one that was suspended away, stopped because we asked: no failure.
    mine = [found for pod, found in diagnosed if found and found.ended and uid and _owner(pod) == uid]
    ended = [] if resource.spec.suspend else sorted(mine, key=lambda found: found.finished_at or "")
    fresh = tuple(found for found in ended if not _known(before, found))
    running = [(pod, found) for pod, found in diagnosed if _is_live(pod, found)]
    live, trouble = running[-1] if running else (None, None)
    infra = (before.restarts or Restarts()).infra + sum(one.failure_class == "Infrastructure" for one in fresh)
    return Case(
        resource=resource,
        seen=seen,
        refusal=refusal,
        before=before,
        ended=tuple(ended),
        fresh=fresh,
        live=live,
        trouble=trouble,
        restarts=_restarts(resource, before, fresh, infra),
        infra=infra,
    )


def leftovers(seen: Seen) -> list[str]:
    """What must be gone before a child is made: a child that is being deleted, pods of an earlier one."""
    child = (seen.child or {}).get("metadata", {})
    pods = [pod for pod in seen.pods if _is_live(pod, diagnose(pod, seen.now)) and _owner(pod) != child.get("uid")]
    names = [f"pod {pod['metadata']['name']}" for pod in pods]
    if child.get("deletionTimestamp"):
        names.append(f"Job {child['name']}")
    return names


def _wish_after_the_end(resource: Resource, seen: Seen) -> Wish:
    """Failed by our own count, the child must stop; after the TTL it must go. Its own TTL is not used: a child that is
    gone before its end was recorded would be run again."""
    ttl_end = _ttl_end(resource)
    if seen.child is None or seen.child["metadata"].get("deletionTimestamp"):
        return Wish.STAY
    if ttl_end is not None and seen.now >= ttl_end:
        return Wish.GO
    status = resource.status or Status()
    failure = status.failure
    # The Job ends by itself at these exit codes (podFailurePolicy); stopping it too would be one write for nothing.
    by_itself = failure is not None and failure.exit_code in NEVER_RETRIED
    finished = _condition(seen.child, "Complete") or _condition(seen.child, "Failed")
    return Wish.STAY if finished or by_itself or failure is None else Wish.END


def _ttl_end(resource: Resource) -> datetime | None:
    ttl, status = resource.spec.ttl_seconds_after_finished, resource.status
    if ttl is None or status is None or status.completion_time is None:
        return None
    return instant(status.completion_time) + timedelta(seconds=ttl)


def _restarts(resource: Resource, before: Status, fresh: tuple[Diagnosis, ...], infra: int) -> Restarts:
    limits = resource.spec.failure_policy
    had = before.restarts or Restarts()
    user = had.user + sum(one.retried and one.failure_class != "Infrastructure" for one in fresh)
    user, infra = min(user, limits.max_restarts), min(infra, limits.max_infra_restarts)
    return Restarts(user=user, infra=infra, total=user + infra)


def _known(before: Status, found: Diagnosis) -> bool:
    """Recorded already; or older than all that are kept, so recorded and dropped since."""
    kept = before.attempts
    if any(attempt.uid == found.uid for attempt in kept):
        return True
    return len(kept) >= ATTEMPTS_KEPT and (found.finished_at or "") < (kept[0].finished_at or "")


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
        for one in case.fresh
    ]
    return [*case.before.attempts, *new][-ATTEMPTS_KEPT:]


def _conditions(case: Case, verdict: Verdict, generation: int) -> list[ConditionStatus]:
    states = {condition: verdict.standing in standings for condition, standings in TRUE_WHEN.items()}
    found = [
        _condition_status(
            case,
            condition,
            "True" if true else "False",
            verdict.reason,
            verdict.message if true or condition is Condition.READY else "",
            generation,
        )
        for condition, true in states.items()
    ]
    before = next((one for one in case.before.conditions if one.type == Condition.INPUTS_READY), None)
    if verdict.reason in INPUTS_MISSING:
        inputs = ("False", verdict.reason, verdict.message)
    elif verdict.reason in INPUTS_READ:
        inputs = ("True", Reason.RUNNING, "the workload has read its inputs")
    elif before is not None and before.status == "True":
        inputs = ("True", Reason.RUNNING, before.message)
    else:
        inputs = ("Unknown", Reason.PENDING, "the workload has not read its inputs yet")
    return [*found, _condition_status(case, Condition.INPUTS_READY, *inputs, generation)]


def _condition_status(
    case: Case, condition: Condition, status: str, reason: Reason, message: str, generation: int
) -> ConditionStatus:
    before = next((one for one in case.before.conditions if one.type == condition), None)
    since = before.last_transition_time if before and before.status == status else _stamp(case.seen.now)
    return ConditionStatus.model_validate(
        {
            "type": condition.value,
            "status": status,
            "reason": reason.value,
            "message": message,
            "lastTransitionTime": since,
            "observedGeneration": generation,
        }
    )


def _failed(case: Case, reason: Reason, message: str, cause: Diagnosis | Refusal, at: str | None = None) -> Verdict:
    ended = at or (case.last and case.last.finished_at) or _stamp(case.seen.now)
    return Verdict(Standing.FAILED, reason, message, cause, ended_at=ended)


def _failure(verdict: Verdict) -> Failure | None:
    cause = verdict.cause
    if cause is None:
        return None
    known: dict[str, Any] = {"class": cause.failure_class, "reason": cause.reason.value, "message": cause.message}
    if isinstance(cause, Diagnosis):
        known |= {"exitCode": cause.exit_code, "pod": cause.pod or None, "rank": cause.rank}
    return Failure.model_validate(known)


def _progress(case: Case, verdict: Verdict, word: Termination | None) -> ProgressStatus | None:
    """What was told last; at a good end the final figures, without an ETA."""
    before, told = case.before.progress, case.seen.progress
    if verdict.standing is Standing.DONE:
        if word is None or word.step is None:
            return before and before.model_copy(update={"eta": None, "eta_seconds": None, "stage": None})
        return _figures(word.step, word.total_steps, word.loss, before or ProgressStatus())
    if told is None:
        # A pod that is not running has no ETA; where it was remains of interest.
        return (
            before
            if verdict.reason is Reason.RUNNING
            else before and before.model_copy(update={"eta": None, "eta_seconds": None})
        )
    loss = told.loss if told.loss is not None and math.isfinite(told.loss) else None
    return ProgressStatus(
        step=told.step,
        total_steps=told.total_steps,
        percent=_percent(told.step, told.total_steps),
        epoch=told.epoch,
        loss=loss,
        loss_display=_loss(told.loss),
        learning_rate=told.learning_rate,
        tokens_per_second=told.tokens_per_second,
        eta_seconds=told.eta_seconds,
        eta=None if told.eta_seconds is None else duration(told.eta_seconds),
        display=_display(told.step, told.total_steps),
        stage=told.stage,
        updated_at=_stamp(case.seen.progress_at or case.seen.now),
    )


def _figures(step: int, total: int | None, loss: float | None, before: ProgressStatus) -> ProgressStatus:
    return before.model_copy(
        update={
            "step": step,
            "total_steps": total,
            "percent": _percent(step, total),
            "display": _display(step, total),
            "loss": before.loss if loss is None else loss,
            "loss_display": before.loss_display if loss is None else _loss(loss),
            "eta": None,
            "eta_seconds": None,
            "stage": None,
        }
    )


def _percent(step: int | None, total: int | None) -> int | None:
    return None if step is None or not total else min(100, 100 * step // total)


def _display(step: int | None, total: int | None) -> str | None:
    """As kubectl shows it: `1200/5000 24%`."""
    if step is None:
        return None
    return f"{step}/{total} {_percent(step, total)}%" if total else str(step)


def _loss(loss: float | None) -> str | None:
    """Four figures: of a loss more are noise."""
    if loss is None:
        return None
    return f"{loss:.4g}" if math.isfinite(loss) else "NaN"


def duration(seconds: int) -> str:
    """`45s`, `12m`, `2h05m`, `3d04h`: two units at most, as kubectl does."""
    seconds = max(0, seconds)
    if seconds < 60:
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if hours < 1:
        return f"{minutes}m"
    if days < 1:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{days}d{hours % 24:02d}h"


def _final_word(case: Case, verdict: Verdict) -> Termination | None:
    """What the pod that settled the job said last."""
    if verdict.standing is Standing.DONE:
        done = next((pod for pod in case.seen.pods if pod.get("status", {}).get("phase") == "Succeeded"), None)
        return _word_of(done)
    return case.last.last_word if case.last else None


def _metrics(word: Termination | None) -> dict[str, float | None] | None:
    """Without those that are no numbers: the CRD's map has numbers only. Why they are none, the reason tells."""
    told = (word and word.metrics) or {}
    return {name: value for name, value in told.items() if value is not None and math.isfinite(value)} or None


def _inputs(case: Case, word: Termination | None) -> dict[str, ResolvedInput] | None:
    told = {
        name: ResolvedInput.model_validate(value) for name, value in ((word and word.resolved_inputs) or {}).items()
    }
    return (dict(case.seen.inputs) | told) or None


def _policy(case: Case, word: Termination | None) -> dict[str, Any] | None:
    return (word and word.resolved_policy) or (case.seen.progress and case.seen.progress.resolved_policy) or None


def _output(word: Termination | None) -> OutputStatus | None:
    if word is None or word.output is None:
        return None
    return OutputStatus.model_validate(word.output.model_dump(by_alias=True))


# --- Reading ---------------------------------------------------------------------------------------------------------


def _owner(pod: Object) -> str | None:
    owners: list[Object] = pod["metadata"].get("ownerReferences") or []
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), None)


def _is_live(pod: Object, found: Diagnosis | None) -> bool:
    return pod.get("status", {}).get("phase") not in ("Succeeded", "Failed") and not (found and found.ended)


def _condition(child: Object | None, kind: str) -> Object | None:
    conditions: list[Object] = (child or {}).get("status", {}).get("conditions") or []
    return next((one for one in conditions if one.get("type") == kind and one.get("status") == "True"), None)


def _word_of(pod: Object | None) -> Termination | None:
    states = [
        (one.get("state") or {}).get("terminated")
        for one in ((pod or {}).get("status", {}).get("containerStatuses") or [])
    ]
    words = [parse_last_word(state.get("message")) for state in states if state]
    return next((word for word in words if word), None)


def _finished(pod: Object | None) -> str | None:
    states = [
        (one.get("state") or {}).get("terminated")
        for one in ((pod or {}).get("status", {}).get("containerStatuses") or [])
    ]
    return max((str(state["finishedAt"]) for state in states if state and state.get("finishedAt")), default=None)


def _first_pod_made(seen: Seen) -> str | None:
    return min(
        (pod["metadata"]["creationTimestamp"] for pod in seen.pods if pod["metadata"].get("creationTimestamp")),
        default=None,
    )


def _is_final(status: Status) -> bool:
    return any(one.type in (Condition.COMPLETE, Condition.FAILED) and one.status == "True" for one in status.conditions)


def _ready_reason(status: Status) -> str | None:
    return next((one.reason for one in status.conditions if one.type == Condition.READY), None)


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _times(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _without(written: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in written.items() if key not in keys}


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else value
