"""Pure: what makes a job's pods, read alike: a Job, which replaces each of its pods by itself, or a JobSet, which starts a Job of several at once
anew."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from alpaca_operator.cluster.objects import Object, ObjectCondition, Pod, condition, parse_time, true_condition
from alpaca_operator.outcomes.conditions import stamp
from alpaca_operator.outcomes.observed import Observed

START = timedelta(seconds=45)
"""Until pods run whose images lie on their nodes, as a rule, also where others are ahead: JobSet's controller takes sets one after another,
about five a second on two cores."""
DEADLINE = "DeadlineExceeded"
"""The Job controller's word for it."""


@dataclass(frozen=True, slots=True)
class Child(ABC):
    """``raw``: as the API server sent it."""

    raw: Object
    jobs: Mapping[str, Object]
    """The Jobs that make its pods, by UID, as far as they are there."""
    family: frozenset[str]
    """UIDs of all that its pods have belonged to."""

    complete_condition: ClassVar[str] = "Complete"

    @property
    def uid(self) -> str:
        return str(self.raw["metadata"]["uid"])

    @property
    def kind(self) -> str:
        return str(self.raw["kind"])

    @property
    def name(self) -> str:
        """With its kind."""
        return f"{self.kind} {self.raw['metadata']['name']}"

    @property
    def labels(self) -> Mapping[str, str]:
        return self.raw["metadata"].get("labels") or {}

    @property
    def is_being_deleted(self) -> bool:
        return "deletionTimestamp" in self.raw["metadata"]

    @property
    def is_suspended(self) -> bool:
        return bool(self.raw["spec"].get("suspend"))

    @property
    def made_at(self) -> str:
        return str(self.raw["metadata"].get("creationTimestamp", ""))

    @property
    def size(self) -> int:
        """Pods that it makes at the same time."""
        return 1

    @property
    def starts_by(self) -> datetime:
        """When its pods run, on the usual way."""
        return parse_time(self.made_at) + START

    @property
    def begins_by(self) -> datetime | None:
        """When its controller has begun with it at the latest, where that is a component of its own."""
        return None

    @property
    def held_since(self) -> str | None:
        """Since when a queue holds it, where it does."""
        return None

    @property
    def complete(self) -> ObjectCondition | None:
        return true_condition(self.raw, self.complete_condition)

    @property
    def failed(self) -> ObjectCondition | None:
        return true_condition(self.raw, "Failed")

    @property
    def has_ended(self) -> bool:
        return bool(self.complete or self.failed)

    @property
    @abstractmethod
    def started_at(self) -> str | None:
        """When it began, or began again after it was suspended."""

    @property
    @abstractmethod
    def out_of_restarts(self) -> bool:
        """Whether its controller says that it has failed more often than it may."""

    @property
    def ends_by_itself(self) -> bool:
        """Whether it has failed, or will have once its pods have stopped."""
        return self.failed is not None

    @abstractmethod
    def past_deadline(self, now: datetime, seconds: int | None, pods: Iterable[Pod]) -> str | None:
        """Since when it runs longer than it may. ``seconds``: what it has from its start. ``pods``: any, of which its own may tell."""

    keeps_deadline: ClassVar[bool] = False
    """Whether its controller stops it then."""

    def deadline(self, seconds: int | None) -> datetime | None:
        """When time alone brings that about, where its controller does not see to it."""
        return None

    @abstractmethod
    def may_fail(self, times: int) -> bool:
        """Whether its controller starts it again after so many failures."""

    @abstractmethod
    def attempt_of(self, pod: Pod) -> str:
        """What counts as one attempt: all pods of which this says the same."""

    def owns(self, pod: Pod) -> bool:
        return pod.controller_uid in self.family

    def was_stopped_with(self, pod: Pod, asked: datetime) -> bool:
        """Whether a pod that was ``asked`` to stop was so because its Job was suspended. Resumed, a Job starts anew; between the two its
        status lags behind its spec."""
        job = self.jobs.get(pod.controller_uid or "")
        if self.is_suspended or (job is not None and (job["spec"].get("suspend") or true_condition(job, "Suspended"))):
            return True
        started = (job or {}).get("status", {}).get("startTime")
        return started is not None and pod.created_at < started and asked <= parse_time(started)


class JobChild(Child):
    """A batch/v1 Job: it counts failures, keeps the deadline, and replaces its pods."""

    @property
    def size(self) -> int:
        return int(self.raw["spec"].get("completions") or 1)

    @property
    def started_at(self) -> str | None:
        return (self.raw.get("status") or {}).get("startTime")

    @property
    def out_of_restarts(self) -> bool:
        return self.failed is not None and self.failed.reason == "BackoffLimitExceeded"

    @property
    def ends_by_itself(self) -> bool:
        return bool(self.failed or true_condition(self.raw, "FailureTarget"))

    keeps_deadline: ClassVar[bool] = True

    def past_deadline(self, now: datetime, seconds: int | None, pods: Iterable[Pod]) -> str | None:
        """The controller stops the pods and then says why: a second or more later where its word was refused, since the Job had just been
        changed. By then a small model may be saved and its pod over."""
        found = self.failed or true_condition(self.raw, "FailureTarget")
        if found is not None:
            return found.last_transition_time if found.reason == DEADLINE else None
        due = self._due
        stops = [pod.told_to_stop_at for pod in pods if self.owns(pod)] if due else []
        first = min((stop for stop in stops if stop and due and stop >= due), default=None)
        return stamp(first) if first else None

    @property
    def _due(self) -> datetime | None:
        seconds = self.raw["spec"].get("activeDeadlineSeconds")
        if seconds is None or self.started_at is None:
            return None
        return parse_time(self.started_at) + timedelta(seconds=seconds)

    def may_fail(self, times: int) -> bool:
        return times <= int(self.raw["spec"].get("backoffLimit", 6))

    def attempt_of(self, pod: Pod) -> str:
        return pod.uid

    def was_stopped_with(self, pod: Pod, asked: datetime) -> bool:
        """Also where the Job stops the others because one of several has failed for good."""
        failed = true_condition(self.raw, "FailureTarget") or self.failed
        ends = self.size > 1 and failed is not None and asked >= parse_time(failed.last_transition_time)
        return ends or super().was_stopped_with(pod, asked)


class JobSetChild(Child):
    """A JobSet of one Job. It has no deadline: the operator counts."""

    complete_condition: ClassVar[str] = "Completed"

    @property
    def size(self) -> int:
        return sum(int(one["template"]["spec"]["completions"]) for one in self.raw["spec"].get("replicatedJobs", ()))

    @property
    def begins_by(self) -> datetime | None:
        return self.starts_by

    @property
    def held_since(self) -> str | None:
        if not self.is_suspended:
            return None
        held = condition(self.raw, "Suspended")
        return held.last_transition_time if held.is_true else self.made_at

    @property
    def started_at(self) -> str | None:
        if self.is_suspended:
            return None
        resumed = condition(self.raw, "Suspended")
        return resumed.last_transition_time if resumed.status == "False" else self.made_at

    def was_stopped_with(self, pod: Pod, asked: datetime) -> bool:
        """Also where the Job is another by now: the Job controller, which deletes the pods of a suspended Job, may see one end in that moment
        and take its exit code for a failure of the Job, which JobSet then makes anew."""
        resumed = condition(self.raw, "Suspended")
        since = resumed.last_transition_time if resumed.status == "False" else None
        before = since is not None and pod.created_at < since and asked <= parse_time(since)
        return before or super().was_stopped_with(pod, asked)

    @property
    def out_of_restarts(self) -> bool:
        return self.failed is not None and self.failed.reason == "ReachedMaxRestarts"

    def past_deadline(self, now: datetime, seconds: int | None, pods: Iterable[Pod]) -> str | None:
        end = self.deadline(seconds)
        return stamp(end) if end is not None and now >= end else None

    def deadline(self, seconds: int | None) -> datetime | None:
        if seconds is None or self.started_at is None:
            return None
        return parse_time(self.started_at) + timedelta(seconds=seconds)

    def may_fail(self, times: int) -> bool:
        return times <= int(self.raw["spec"].get("failurePolicy", {}).get("maxRestarts", 0))

    def attempt_of(self, pod: Pod) -> str:
        return pod.controller_uid or pod.uid


CHILDREN: dict[str, type[Child]] = {"Job": JobChild, "JobSet": JobSetChild}


def child_of(observed: Observed) -> Child | None:
    if observed.child is None:
        return None
    own = observed.child["metadata"].get("uid", "")
    jobs = {own: observed.child} | {job["metadata"]["uid"]: job for job in observed.jobs}
    return CHILDREN[observed.child["kind"]](observed.child, jobs, observed.family | {own})
