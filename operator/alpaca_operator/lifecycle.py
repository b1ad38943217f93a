"""How the resources of each kind begin, go on and end: jobs run to an end, deployments serve until they are deleted."""

from __future__ import annotations

import typing
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

from alpaca_operator.api import KINDS, Resource
from alpaca_operator.api.base import Job
from alpaca_operator.api.chain import Find
from alpaca_operator.api.status import ResourceStatus
from alpaca_operator.chats import status as chats
from alpaca_operator.diagnosis.model import Refusal
from alpaca_operator.inputs import InputResolution
from alpaca_operator.jobs import status as jobs
from alpaca_operator.outcomes.observed import Observed
from alpaca_operator.outcomes.verdict import Desired


class Lifecycle(Protocol):
    """What a module knows of the resources whose life it tells."""

    CHILDREN: tuple[str, ...]

    @property
    def inputs(self) -> Callable[[Any, dict[str, Any] | None, Find], InputResolution]:
        """What the resource reads of what other jobs make."""

    @property
    def desired(self) -> Callable[[Any, Observed], Desired]:
        """What the resource wants of its children."""

    @property
    def compute(self) -> Callable[[Any, Observed, Refusal | None], dict[str, Any]]:
        """Its next status."""

    @property
    def requeue_after(self) -> Callable[[Any, Observed], timedelta | None]:
        """When time alone will change something, the time until then."""

    @property
    def is_terminal(self) -> Callable[[Any], bool]:
        """Whether its status has told its end."""

    @property
    def is_final(self) -> Callable[[dict[str, Any]], bool]:
        """Whether a computed status ends it for good."""


LIFECYCLES: dict[str, Lifecycle] = {name: jobs if issubclass(kind, Job) else chats for name, kind in KINDS.items()}


def status_of(resource: Resource) -> type[ResourceStatus]:
    """The model of the resource's status."""
    arms = typing.get_args(type(resource).model_fields["status"].annotation)
    found: type[ResourceStatus] = next(arm for arm in arms if issubclass(arm, ResourceStatus))
    return found
