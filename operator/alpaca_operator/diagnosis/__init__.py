"""Pure: a pod, or an answer of the API server, told in one line with what to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from alpaca_operator.cluster.objects import Pod, parse_time
from alpaca_operator.diagnosis.ended import (
    anything_else,
    by_exit_code,
    by_signal,
    disrupted,
    evicted_by_its_own_limit,
    failed_beside,
    killed_at_a_stop,
    not_startable,
    out_of_memory,
)
from alpaca_operator.diagnosis.model import Diagnosis
from alpaca_operator.diagnosis.pod import ExaminedPod, ended_at, ended_well
from alpaca_operator.diagnosis.text import one_line
from alpaca_operator.diagnosis.waiting import (
    PATIENCE,
    SILENCE,
    held_up,
    not_created,
    not_mounted,
    silent_node,
    unpullable,
    unschedulable,
    volume_not_ready,
    waits_on_node_since,
)


def diagnose(pod: Pod, now: datetime) -> Diagnosis | None:
    """The root cause, or None for a pod that runs, starts, or ended well."""
    if ended_well(pod):
        return None
    read = ExaminedPod(pod.raw, now)
    found = next((found for check in CHECKS if (found := check(read))), None)
    if found is None:
        return None
    suffix = f"pod {pod.name}" if found.exit_code is None else f"pod {pod.name}, exit {found.exit_code}"
    return Diagnosis(
        failure_class=found.failure_class,
        reason=found.reason,
        message=f"{one_line(found.message)} ({suffix})",
        ended=found.ended,
        exit_code=found.exit_code,
        rank=found.rank,
        termination=found.termination,
        pod=pod.name,
        uid=pod.uid,
        finished_at=ended_at(read) if found.ended else None,
    )


def changes_at(pod: Pod, now: datetime) -> datetime | None:
    """When time alone will change the diagnosis, if nothing else does."""
    read = ExaminedPod(pod.raw, now)
    if read.ended or ended_well(pod):
        return None
    stopped, placed = pod.deletion_timestamp, waits_on_node_since(read)
    moments = [parse_time(stopped) + SILENCE] if stopped else []
    moments += [placed + PATIENCE] if placed else []
    return min((moment for moment in moments if moment > now), default=None)


CHECKS: tuple[Callable[[ExaminedPod], Diagnosis | None], ...] = (
    disrupted,  # before the exit code: a pod killed on the way out ends with any
    evicted_by_its_own_limit,  # before the exit code: its containers were killed for it
    out_of_memory,  # before the signal that it came with
    by_exit_code,
    not_startable,
    killed_at_a_stop,  # before the signal that ended it
    by_signal,
    failed_beside,
    anything_else,  # the last word on pods that ended
    silent_node,  # before the rest: nothing of such a pod is news any more
    volume_not_ready,  # before unschedulable, whose condition it shares
    unschedulable,
    unpullable,
    not_created,
    held_up,
    not_mounted,
)
"""The first that speaks wins."""
