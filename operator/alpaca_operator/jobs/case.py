"""Pure: a job, what was observed of it, and what follows from both: read by every verdict."""

from __future__ import annotations

from dataclasses import dataclass

from alpaca_operator.api.contract import Termination
from alpaca_operator.api.resource import Job
from alpaca_operator.api.status import CheckpointStatus, Condition, Reason, Restarts, Status
from alpaca_operator.cluster.objects import Object, ObjectCondition, Pod, parse_time, true_condition
from alpaca_operator.diagnosis import diagnose
from alpaca_operator.diagnosis.model import Diagnosis
from alpaca_operator.diagnosis.pod import ExaminedPod, ended_well, parse_termination, workload_ended
from alpaca_operator.exits import Exit
from alpaca_operator.outcomes.observed import Observed

DEADLINE = "DeadlineExceeded"
"""The Job controller's word for it."""
ATTEMPTS_KEPT = 32
"""As many as `status.attempts` may hold."""


@dataclass(frozen=True, slots=True)
class Case:
    """A job, what was observed of it, and what follows from both: read by every verdict."""

    resource: Job
    observed: Observed
    exit: Exit | None
    before: Status
    ended: tuple[Diagnosis, ...]
    """Attempts of the present child that failed, oldest first."""
    unrecorded: tuple[Diagnosis, ...]
    """Those of them that the status does not know yet."""
    live: Pod | None
    """The newest pod that has not ended."""
    trouble: Diagnosis | None
    """What the live pod waits for."""
    restarts: Restarts
    """As they are with the unrecorded attempts. `user` is never above `maxRestarts`: the last failure is no restart."""
    infra: int
    """Disruptions, without that limit."""

    @property
    def child(self) -> Object | None:
        return self.observed.child

    @property
    def last(self) -> Diagnosis | None:
        """The newest attempt of the present child that failed; an evicted pod is gone by the time that the next one starts."""
        return self.ended[-1] if self.ended else _remembered(self.before, self.child)

    @property
    def checkpoint(self) -> CheckpointStatus | None:
        """The furthest that was told of: a pod that is stopped saves once more, and says so in its termination message alone."""
        terminations = [
            termination.checkpoint for pod in self.observed.pods if (termination := termination_of(pod))
        ]  # suspended ones too
        reported = self.observed.progress.checkpoint if self.observed.progress else None
        known = [CheckpointStatus(uri=one.uri, step=one.step) for one in (*terminations, reported) if one]
        return max([*known, *filter(None, [self.before.checkpoint])], key=lambda one: one.step, default=None)

    @property
    def resumption(self) -> str:
        """From where the next pod starts."""
        at = self.checkpoint
        return (
            f"continues from the checkpoint at step {at.step}"
            if at
            else "starts from the newest checkpoint, if there is one"
        )


# --- What follows from what was seen ---------------------------------------------------------------------------------


def case_of(resource: Job, observed: Observed, exit: Exit | None) -> Case:
    before = resource.status or Status()
    uid = (observed.child or {}).get("metadata", {}).get("uid")
    diagnosed = [(pod, diagnose(pod, observed.now)) for pod in observed.pods]
    mine = [
        found
        for pod, found in diagnosed
        if found
        and found.ended
        and uid
        and pod.controller_uid == uid
        and not _stopped_with_its_job(pod, resource, observed)
    ]
    ended = sorted(mine, key=lambda found: found.finished_at or "")
    unrecorded = tuple(found for found in ended if not _known(before, found))
    running = [(pod, found) for pod, found in diagnosed if _is_live(pod, found)]
    live, trouble = running[-1] if running else (None, None)
    # After the deadline no pod follows: what became of the last one is no restart.
    followed = () if giving_up(observed.child, DEADLINE) else unrecorded
    infra = (before.restarts or Restarts()).infra + sum(one.failure_class == "Infrastructure" for one in followed)
    return Case(
        resource=resource,
        observed=observed,
        exit=exit,
        before=before,
        ended=tuple(ended),
        unrecorded=unrecorded,
        live=live,
        trouble=trouble,
        restarts=_restarts(resource, before, followed, infra),
        infra=infra,
    )


def _stopped_with_its_job(pod: Pod, resource: Job, observed: Observed) -> bool:
    """Whether the pod stopped because its job was to: deleted or suspended, by us, by Kueue or by anyone. That is no failure, and counts
    towards nothing, however often it happens."""
    child = observed.child
    if child is None or resource.spec.suspend or child["metadata"].get("deletionTimestamp"):
        return True
    asked = pod.told_to_stop_at
    if asked is None or not ExaminedPod(pod.raw, observed.now).killed_on_request:
        return False
    # Resumed, a Job starts anew; between the two its status lags behind its spec.
    started = child.get("status", {}).get("startTime")
    suspended = child["spec"].get("suspend") or true_condition(child, "Suspended")
    return bool(suspended) or (started is not None and pod.created_at < started and asked <= parse_time(started))


def out_of_restarts(child: Object | None, ended: tuple[Diagnosis, ...]) -> bool:
    """Whether the present child has failed more often than it may."""
    counted = sum(one.retried and one.failure_class != "Infrastructure" for one in ended)
    return child is not None and counted > child["spec"].get("backoffLimit", 6)


def leftovers(observed: Observed) -> list[str]:
    """What must be gone before a child is made: a child that is being deleted, pods of an earlier one."""
    child = (observed.child or {}).get("metadata", {})
    pods = [
        pod
        for pod in observed.pods
        if _is_live(pod, diagnose(pod, observed.now)) and pod.controller_uid != child.get("uid")
    ]
    names = [f"pod {pod.name}" for pod in pods]
    if child.get("deletionTimestamp"):
        names.append(f"Job {child['name']}")
    return names


def _restarts(resource: Job, before: Status, unrecorded: tuple[Diagnosis, ...], infra: int) -> Restarts:
    limits = resource.spec.failure_policy
    had = before.restarts or Restarts()
    user = had.user + sum(one.retried and one.failure_class != "Infrastructure" for one in unrecorded)
    user, infra = min(user, limits.max_restarts), min(infra, limits.max_infra_restarts)
    return Restarts(user=user, infra=infra, total=user + infra)


def _remembered(before: Status, child: Object | None) -> Diagnosis | None:
    """The last attempt that the status has, if it was one of this child and no pod has run since: how a later pod ended, of which
    nothing is left, is not known."""
    made = (child or {}).get("metadata", {}).get("creationTimestamp", "")
    if child is None or not before.attempts or (before.attempts[-1].finished_at or "") < made:
        return None
    if ready_reason(before) != Reason.RESTARTING:
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


# --- Reading ---------------------------------------------------------------------------------------------------------


def _is_live(pod: Pod, found: Diagnosis | None) -> bool:
    return not pod.is_over and not ended_well(pod) and not (found and found.ended)


def giving_up(child: Object | None, reason: str) -> ObjectCondition | None:
    """The condition that the child has failed, or will have once its pods have stopped, for this reason."""
    found = true_condition(child, "Failed") or true_condition(child, "FailureTarget")
    return found if found and found.reason == reason else None


def termination_of(pod: Pod | None) -> Termination | None:
    """What its workload said last."""
    ended = workload_ended(pod) if pod else None
    return parse_termination(ended.message) if ended else None


def pod_that_succeeded(observed: Observed) -> Pod | None:
    return next((pod for pod in observed.pods if ended_well(pod)), None)


def ready_reason(status: Status) -> str | None:
    return next((one.reason for one in status.conditions if one.type == Condition.READY), None)
