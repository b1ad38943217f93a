"""Deployments serve until they are deleted."""

from __future__ import annotations

from alpaca_operator.api.serving import ServingStatus
from alpaca_operator.chats import adapters, status
from alpaca_operator.chats.updates import resolve
from alpaca_operator.outcomes.lifecycle import Lifecycle
from alpaca_operator.outcomes.verdict import Desired

CHATS = Lifecycle(
    children=("Deployment", "ReplicaSet", "Service", "PodDisruptionBudget", "HTTPRoute"),
    status=ServingStatus,
    resolve_inputs=resolve,
    desired=status.desired,
    scouting=lambda *_: Desired.UNCHANGED,
    pushing=lambda *_: Desired.UNCHANGED,
    gates=lambda *_: {},
    spent=lambda _: [],
    retold=adapters.retold,
    compute=status.compute,
    requeue_after=status.requeue_after,
    may_wait=lambda _resource, _observed: None,
    is_terminal=lambda _: False,
    is_final=lambda _: False,
    counts=lambda *_: False,
)
