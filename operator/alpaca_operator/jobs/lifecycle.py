"""Jobs run to an end."""

from __future__ import annotations

from alpaca_operator.api.status import Status
from alpaca_operator.jobs import publications, status
from alpaca_operator.jobs.growth import scouting
from alpaca_operator.jobs.inputs import resolve
from alpaca_operator.outcomes.lifecycle import Lifecycle

JOBS = Lifecycle(
    children=("Job", "JobSet"),
    status=Status,
    resolve_inputs=resolve,
    desired=status.desired,
    scouting=scouting,
    pushing=publications.pushing,
    gates=publications.gates,
    spent=status.spent,
    retold=lambda _: [],
    compute=status.compute,
    requeue_after=status.requeue_after,
    may_wait=status.may_wait,
    is_terminal=status.is_terminal,
    is_final=status.is_final,
    counts=status.counts,
)
