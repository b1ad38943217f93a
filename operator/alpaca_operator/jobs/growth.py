"""Pure: how a job that goes on with fewer nodes than it asks for comes by more.

A scout looks for room beside it: a Job whose pods ask for what the missing ones would, and do nothing. Whether they have room the scheduler
says, and the queue. It stays a minute, unless it has found some: then it keeps that until the child is made anew. When it has not, the next
one comes as long after it as the job waits for room before it goes on with fewer; and twice as long each time that the job has grown, so that
one whose room is taken again does not spend its time on being made anew.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from alpaca_operator.api.contract import SCOUT_SECONDS
from alpaca_operator.api.resource import Job, Parallelism
from alpaca_operator.cluster.objects import parse_time, true_condition
from alpaca_operator.jobs.child import Child, child_of
from alpaca_operator.jobs.rescale import may_shrink
from alpaca_operator.outcomes.observed import Observed, Scout
from alpaca_operator.outcomes.verdict import Desired

DOUBLED = 6
"""How often the pause between two scouts grows at most."""


def scouting(job: Job, observed: Observed) -> Desired:
    """What the job wants of its scout."""
    if observed.scout is None and not may_shrink(job):
        return Desired.UNCHANGED
    child, scout = child_of(observed), observed.scout
    if scout is None:
        begins = _begins(job, child, observed)
        return Desired.PRESENT if begins is not None and observed.now >= begins else Desired.UNCHANGED
    if "deletionTimestamp" in scout.raw["metadata"]:
        return Desired.UNCHANGED
    if job.spec.suspend or _is_over(job):
        return Desired.ABSENT
    if child is None or child.is_being_deleted or child.size < job.size:  # what it has found is kept for the next child
        return Desired.UNCHANGED
    if not _lacks_nodes(job, child) or scout.raw["spec"]["parallelism"] != job.nodes - child.size:
        return Desired.ABSENT
    if ended := _ended_at(scout):
        return Desired.ABSENT if observed.now >= ended + _pause(job) else Desired.UNCHANGED
    leaves = _leaves(scout)
    return Desired.STOPPED if leaves is not None and observed.now >= leaves else Desired.UNCHANGED


def grown_size(job: Job, child: Child | None, observed: Observed) -> int | None:
    """With how many nodes the job goes on, where there is room for more of them than its child has, which runs."""
    scout = observed.scout
    if (
        scout is None
        or _ended_at(scout)
        or child is None
        or not (_lacks_nodes(job, child) and _all_run(child, observed))
    ):
        return None
    pods = [pod for pod in scout.pods if not pod.is_over and pod.deletion_timestamp is None]
    judged = [pod for pod in pods if pod.node or pod.condition("PodScheduled").status == "False"]
    if len(judged) < scout.raw["spec"]["parallelism"]:
        return None
    room = child.size + sum(bool(pod.node) for pod in judged)
    return max((size for size in _sizes(job) if child.size < size <= room), default=None)


def next_look(job: Job, observed: Observed) -> datetime | None:
    """When time alone changes what the job wants of its scout."""
    if observed.scout is None and not may_shrink(job):
        return None
    child, scout = child_of(observed), observed.scout
    if scout is None:
        return _begins(job, child, observed)
    ended = _ended_at(scout)
    return ended + _pause(job) if ended else _leaves(scout)


def _begins(job: Job, child: Child | None, observed: Observed) -> datetime | None:
    """When the first scout looks beside a child: not before all of its pods run."""
    if child is None or not _lacks_nodes(job, child) or child.size != job.size or job.spec.suspend or _is_over(job):
        return None
    return parse_time(child.made_at) + _pause(job) if _all_run(child, observed) else None


def _all_run(child: Child, observed: Observed) -> bool:
    return sum(pod.is_running and child.owns(pod) for pod in observed.pods) >= child.size


def _lacks_nodes(job: Job, child: Child) -> bool:
    """Whether a child works with fewer than are asked for, and more of them could share a step."""
    at_work = not (child.is_suspended or child.is_being_deleted or child.has_ended)
    return may_shrink(job) and at_work and any(size > child.size for size in _sizes(job))


def _sizes(job: Job) -> list[int]:
    parallelism: Parallelism = job.spec.parallelism  # type: ignore[attr-defined]
    return parallelism.numbers_of_nodes(job.spec.training.gradient_accumulation)  # type: ignore[attr-defined]


def _pause(job: Job) -> timedelta:
    parallelism: Parallelism = job.spec.parallelism  # type: ignore[attr-defined]
    grown = (job.status and job.status.nodes and job.status.nodes.grown) or 0
    return timedelta(seconds=parallelism.rescale_after_seconds << min(grown, DOUBLED))


def _leaves(scout: Scout) -> datetime | None:
    """When it has looked long enough; a queue that has not let it in yet has no end."""
    began = (scout.raw.get("status") or {}).get("startTime")
    return (
        parse_time(began) + timedelta(seconds=SCOUT_SECONDS) if began and not scout.raw["spec"].get("suspend") else None
    )


def _ended_at(scout: Scout) -> datetime | None:
    over = true_condition(scout.raw, "Failed") or true_condition(scout.raw, "Complete")
    return parse_time(over.last_transition_time) if over else None


def _is_over(job: Job) -> bool:
    return job.status is not None and job.status.completion_time is not None
