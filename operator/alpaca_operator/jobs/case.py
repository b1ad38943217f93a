"""Pure: a job, what was observed of it, and what follows from both: read by every verdict."""

from __future__ import annotations

from dataclasses import dataclass

from alpaca_operator.api.contract import Termination
from alpaca_operator.api.resource import Job
from alpaca_operator.api.status import CheckpointStatus, Condition, Reason, Restarts, Status
from alpaca_operator.cluster.objects import Pod
from alpaca_operator.diagnosis import diagnose
from alpaca_operator.diagnosis.model import Diagnosis
from alpaca_operator.diagnosis.pod import ExaminedPod, ended_well, parse_termination, workload_ended
from alpaca_operator.exits import Exit
from alpaca_operator.jobs import several
from alpaca_operator.jobs.child import Child, child_of
from alpaca_operator.jobs.growth import grown_size
from alpaca_operator.jobs.rescale import Shortage, shortage
from alpaca_operator.outcomes.observed import Observed

ATTEMPTS_KEPT = 32
"""As many as `status.attempts` may hold."""


@dataclass(frozen=True, slots=True)
class Case:
    """A job, what was observed of it, and what follows from both: read by every verdict."""

    resource: Job
    observed: Observed
    child: Child | None
    exit: Exit | None
    before: Status
    ended: tuple[Diagnosis, ...]
    """Attempts of the present child that failed, oldest first."""
    unrecorded: tuple[Diagnosis, ...]
    """Those of them that the status does not know yet."""
    pods: tuple[Pod, ...]
    """Those that have not ended; of several that work together the first node's is the first."""
    failing: Diagnosis | None
    """Why they stop, where another that works with them has failed."""
    trouble: Diagnosis | None
    """What they wait for."""
    restarts: Restarts
    """As they are with the unrecorded attempts. `user` is never above `maxRestarts`: the last failure is no restart."""
    infra: int
    """Disruptions, without that limit."""

    @property
    def live(self) -> Pod | None:
        """The pod that has not ended; of several the first node's."""
        return self.pods[0] if self.pods else None

    @property
    def size(self) -> int:
        """Pods that work at the same time."""
        return self.child.size if self.child else self.resource.size

    @property
    def done(self) -> int:
        """Pods of the present child that have ended well, each with its part of the work."""
        child = self.child
        return sum(ended_well(pod) for pod in self.observed.pods if child and child.owns(pod))

    @property
    def starts_late(self) -> bool:
        """Whether the child's controller has not begun with it, though it had the time."""
        return (
            not self.observed.jobs
            and self.child is not None
            and self.child.begins_by is not None
            and self.observed.now >= self.child.begins_by
        )

    @property
    def shortage(self) -> Shortage | None:
        """Of nodes that the present child asks for."""
        return shortage(self.resource, self.child, self.pods)

    @property
    def next_size(self) -> int:
        """With how many nodes the job goes on: as the status says, or fewer, or more."""
        if grown := grown_size(self.resource, self.child, self.observed):
            return grown
        short = self.shortage
        lasts = short is not None and self.observed.now >= short.ends_at
        return short.next_size if short and lasts and short.next_size < self.resource.size else self.resource.size

    @property
    def overdue_since(self) -> str | None:
        """Since when the child has run as long as the job may."""
        return _overdue_since(self.resource, self.child, self.observed)

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
    child = child_of(observed)
    diagnosed = [(pod, diagnose(pod, observed.now)) for pod in observed.pods]
    mine = [
        (pod, found)
        for pod, found in diagnosed
        if child and child.owns(pod) and not _stopped_with_its_job(pod, child, resource, observed)
    ]
    ended = several.attempts(mine, child) if child else []
    failing = several.failing(mine, child) if child else None
    unrecorded = tuple(found for found in ended if not _known(before, found))
    running = several.together([(pod, found) for pod, found in diagnosed if _is_live(pod, found)])
    # After the deadline no pod follows: what became of the last one is no restart.
    followed = () if _overdue_since(resource, child, observed) else unrecorded
    infra = (before.restarts or Restarts()).infra + sum(one.failure_class == "Infrastructure" for one in followed)
    return Case(
        resource=resource,
        observed=observed,
        child=child,
        exit=exit,
        before=before,
        ended=tuple(ended),
        unrecorded=unrecorded,
        pods=tuple(pod for pod, _ in running),
        failing=failing,
        trouble=several.trouble(running, child.size if child else resource.size),
        restarts=_restarts(resource, before, followed, infra),
        infra=infra,
    )


def _stopped_with_its_job(pod: Pod, child: Child, resource: Job, observed: Observed) -> bool:
    """Whether the pod stopped because its job was to: deleted or suspended, by us, by Kueue or by anyone. That is no failure, and counts
    towards nothing, however often it happens."""
    if resource.spec.suspend or child.is_being_deleted:
        return True
    asked = pod.told_to_stop_at
    if asked is None or not ExaminedPod(pod.raw, observed.now).killed_on_request:
        return False
    return child.was_stopped_with(pod, asked)


def _overdue_since(resource: Job, child: Child | None, observed: Observed) -> str | None:
    return child.past_deadline(observed.now, resource.seconds_left, observed.pods) if child is not None else None


def out_of_restarts(child: Child | None, ended: tuple[Diagnosis, ...]) -> bool:
    """Whether the present child has failed more often than it may."""
    counted = sum(one.retried and one.failure_class != "Infrastructure" for one in ended)
    return child is not None and not child.may_fail(counted)


def leftovers(observed: Observed) -> list[str]:
    """What must be gone before a child is made: a child that is being deleted, pods of an earlier one."""
    child = child_of(observed)
    pods = [
        pod for pod in observed.pods if not (child and child.owns(pod)) and _is_live(pod, diagnose(pod, observed.now))
    ]
    names = [f"pod {pod.name}" for pod in pods]
    if child and child.is_being_deleted:
        names.append(child.name)
    return names


def _restarts(resource: Job, before: Status, unrecorded: tuple[Diagnosis, ...], infra: int) -> Restarts:
    limits = resource.spec.failure_policy
    had = before.restarts or Restarts()
    user = had.user + sum(one.retried and one.failure_class != "Infrastructure" for one in unrecorded)
    user, infra = min(user, limits.max_restarts), min(infra, limits.max_infra_restarts)
    return Restarts(user=user, infra=infra, total=user + infra)


def _remembered(before: Status, child: Child | None) -> Diagnosis | None:
    """The last attempt that the status has, if it was one of this child and no pod has run since: how a later pod ended, of which
    nothing is left, is not known."""
    if child is None or not before.attempts or (before.attempts[-1].finished_at or "") < child.made_at:
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


def termination_of(pod: Pod | None) -> Termination | None:
    """What its workload said last."""
    ended = workload_ended(pod) if pod else None
    return parse_termination(ended.message) if ended else None


def pod_that_succeeded(observed: Observed) -> Pod | None:
    """Of several the first node's, which publishes."""
    return next((pod for pod in observed.pods if pod.index == 0 and ended_well(pod)), None)


def ready_reason(status: Status) -> str | None:
    return next((one.reason for one in status.conditions if one.type == Condition.READY), None)
