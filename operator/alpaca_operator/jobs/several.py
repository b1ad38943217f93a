"""Pure: pods that work together, as one: their end has one cause, and what they wait for one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from alpaca_operator.api.contract import LABEL_INDEX, NEVER_RETRIED, ExitCode
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.objects import Pod
from alpaca_operator.diagnosis.model import Diagnosis
from alpaca_operator.diagnosis.pod import ended_well
from alpaca_operator.jobs.child import Child

Examined = tuple[Pod, Diagnosis | None]

TOGETHER = timedelta(seconds=10)
"""Pods of one start follow each other within it, as a rule: until then it is not worth a write that some run and others do not."""


def attempts(examined: Iterable[Examined], child: Child) -> list[Diagnosis]:
    """The attempts that failed, oldest first: each by what was the cause. One of several pods is over when all of them are: a later one may
    know more than the first."""
    over = [cause for cause, is_over in _causes(examined, child) if is_over]
    return sorted(over, key=lambda found: found.finished_at or "")


def failing(examined: Iterable[Examined], child: Child) -> Diagnosis | None:
    """Why pods stop of which others have failed, as far as that is known."""
    return next((cause for cause, is_over in _causes(examined, child) if not is_over), None)


def _causes(examined: Iterable[Examined], child: Child) -> Iterator[tuple[Diagnosis, bool]]:
    """Of each attempt in which a pod has failed: the cause, and whether all of its pods have ended."""
    attempts: dict[str, list[Examined]] = {}
    for pod, found in examined:
        attempts.setdefault(child.attempt_of(pod), []).append((pod, found))
    for attempt, pods in attempts.items():
        if failed := [found for _, found in pods if found and found.ended]:
            is_over = all(ended_well(pod) or pod.is_over or (found and found.ended) for pod, found in pods)
            yield replace(root_cause(failed), uid=attempt), is_over


def root_cause(ended: Sequence[Diagnosis]) -> Diagnosis:
    """The one whose end says most, then the earliest: the others are collateral."""
    return min(ended, key=lambda found: (_vagueness(found), found.finished_at or "~"))


def _vagueness(found: Diagnosis) -> int:
    """0 for a cause that names itself, up to 4 for a pod that only stopped with the others."""
    code = found.exit_code
    if (
        found.reason is Reason.OUT_OF_MEMORY
        or (found.failure_class != "Infrastructure" and code in NEVER_RETRIED)
        or code == ExitCode.HUNG
    ):
        return 0
    if found.reason is Reason.DISRUPTED:
        return 1
    if code == ExitCode.INTERRUPTED:
        return 4
    return 2 if code == ExitCode.INTERNAL else 3


def together(running: Sequence[Examined]) -> list[Examined]:
    """Of pods that have not ended, oldest first, those of the newest attempt, by the numbers of their nodes."""
    if not running:
        return []
    newest = running[-1][0].controller_uid
    if LABEL_INDEX not in running[-1][0].labels:
        return [running[-1]]
    return sorted((one for one in running if one[0].controller_uid == newest), key=lambda one: one[0].index)


def gathers_until(pods: Iterable[Pod], size: int) -> datetime | None:
    """Of pods that are to work together, while some of them run and others do not yet: until when that is on the usual way. None where none
    runs, or all do."""
    running = [pod for pod in pods if pod.is_running]
    began = min((since for pod in running if (since := pod.runs_since)), default=None)
    return began + TOGETHER if began and len(running) < size else None


def trouble(running: Sequence[Examined], nodes: int) -> Diagnosis | None:
    """What pods wait for: what holds up most of them, and how many that are."""
    waiting = [found for _, found in running if found is not None]
    undecided = any(found is None and not pod.node for pod, found in running)
    if not waiting or undecided:  # each that follows would be another number, and another write
        return None
    by_reason: dict[Reason, list[Diagnosis]] = {}
    for found in waiting:
        by_reason.setdefault(found.reason, []).append(found)
    most = max(by_reason.values(), key=len)
    first = most[0]
    return first if nodes == 1 else replace(first, message=f"{len(most)} of {nodes} nodes: {first.message}")
