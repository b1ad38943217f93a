"""Pure: with how many nodes a job goes on that does not find room for all of them.

The status says how many, and the child follows: one of another size is stopped, which saves a checkpoint, and made anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from alpaca_operator.api.resource import Job, Parallelism
from alpaca_operator.cluster.objects import Pod, parse_time
from alpaca_operator.jobs.child import Child


@dataclass(frozen=True, slots=True)
class Shortage:
    """Nodes for which there is no room."""

    since: datetime
    size: int
    """How many nodes there is room for, as far as it is known: at least one fewer than the child has."""
    next_size: int
    """With how many the job goes on when it lasts."""
    patience: timedelta

    @property
    def ends_at(self) -> datetime:
        """When it has lasted long enough."""
        return self.since + self.patience


def may_shrink(job: Job) -> bool:
    """Whether it may go on with fewer nodes than it asks for."""
    parallelism = getattr(job.spec, "parallelism", None)
    # DatasetJob has one of its own: its processes share no step.
    return isinstance(parallelism, Parallelism) and parallelism.min_nodes is not None


def shortage(job: Job, child: Child | None, pods: Sequence[Pod]) -> Shortage | None:
    """``pods``: those of the present attempt that have not ended."""
    if not may_shrink(job) or child is None or child.is_being_deleted or child.has_ended:
        return None
    parallelism: Parallelism = job.spec.parallelism  # type: ignore[attr-defined]
    found = _without_quota(child, pods) or _unplaced(child, pods)
    if found is None:
        return None
    since, room = found
    sizes = parallelism.numbers_of_nodes(job.spec.training.gradient_accumulation)  # type: ignore[attr-defined]
    fitting = [size for size in sizes if size <= room]
    patience = timedelta(seconds=parallelism.rescale_after_seconds)
    return Shortage(since, room, max(fitting), patience) if fitting else None


def _without_quota(child: Child, pods: Sequence[Pod]) -> tuple[datetime, int] | None:
    """A queue admits all or none, and does not say how many it has room for: one fewer is tried."""
    held = child.held_since
    return (parse_time(held), child.size - 1) if held and not pods else None


def _unplaced(child: Child, pods: Sequence[Pod]) -> tuple[datetime, int] | None:
    """Pods that the scheduler cannot place, beside those that it has placed."""
    waiting = [
        condition.last_transition_time
        for pod in pods
        for condition in [pod.condition("PodScheduled")]
        if not pod.node and condition.status == "False" and condition.reason == "Unschedulable"
    ]
    if not waiting or len(pods) < child.size:  # until all are made it is not known how many find a place
        return None
    return parse_time(max(waiting)), sum(bool(pod.node) for pod in pods)
