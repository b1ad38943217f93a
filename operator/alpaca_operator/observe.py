"""All that a reconcile reads, gathered once: the child, its pods, the last progress, the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from alpaca_operator.api import Resource
from alpaca_operator.api.contract import Progress
from alpaca_operator.diagnosis import Refusal
from alpaca_operator.plan.base import Inputs

Object = dict[str, Any]


class World(Protocol):
    """What the store knows. Plain dicts, as the API server sent them; nothing here waits or reads over the network."""

    def now(self) -> datetime:
        """The time, in UTC."""

    def child(self, resource: Resource) -> Object | None:
        """The Job by the child's name in the resource's namespace, whoever owns it; also while it is being deleted."""

    def pods(self, resource: Resource) -> Sequence[Object]:
        """Every pod labelled with the resource's UID: those in the cluster, and those deleted after they had ended, in
        their last state, until the resource's status has their end (an eviction ends and deletes a pod within milliseconds)."""

    def progress(self, resource: Resource) -> tuple[Progress, datetime] | None:
        """What the running pod last told, and when it was read."""

    def refusal(self, resource: Resource) -> Refusal | None:
        """Why the child has no pods, from the events of the Job controller; None when it has some, or nothing was said."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The cluster as one reconcile sees it."""

    now: datetime
    child: Object | None = None
    pods: tuple[Object, ...] = ()
    progress: Progress | None = None
    progress_at: datetime | None = None
    refusal: Refusal | None = None
    inputs: Inputs = None  # type: ignore[assignment]


def gather(resource: Resource, world: World) -> Seen:
    raise NotImplementedError
