"""Pure: what is to be known of resources whose lives are alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from alpaca_operator.api.chain import Find, Select
from alpaca_operator.api.status import ResourceStatus
from alpaca_operator.cluster.objects import Object, Pod
from alpaca_operator.exits import Exit
from alpaca_operator.inputs import InputResolution, MissingInput
from alpaca_operator.outcomes.observed import Observed
from alpaca_operator.outcomes.verdict import Desired


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """How resources begin, go on and end: jobs run to an end, deployments serve until they are deleted."""

    children: tuple[str, ...]
    """Kinds of objects that a resource owns, besides pods: near ones first."""
    status: type[ResourceStatus]
    """The model of its status."""
    resolve_inputs: Callable[[Any, Object | None, Find, Select], InputResolution]
    """(resource, child, find, select) -> what it reads of what other jobs make."""
    desired: Callable[[Any, Observed], Desired]
    """(resource, observed) -> what it wants of its children."""
    scouting: Callable[[Any, Observed], Desired]
    """(resource, observed) -> what it wants of what looks for room."""
    pushing: Callable[[Any, Observed], Desired]
    """(resource, observed) -> what it wants of what pushes its output."""
    gates: Callable[[Any, Find], Mapping[int, MissingInput]]
    """(resource, find) -> why nothing is pushed to a place of `publish` yet, by its number."""
    spent: Callable[[Observed], list[Pod]]
    """Pods that have done what they were made for, and do not end by themselves."""
    retold: Callable[[Observed], list[tuple[Pod, dict[str, Any]]]]
    """Pods that are to know something else than they were made with, and what is merged into each."""
    compute: Callable[[Any, Observed, Exit | None], dict[str, Any]]
    """(resource, observed, exit) -> its next status; ``exit`` is why its children could not be made as desired."""
    requeue_after: Callable[[Any, Observed], timedelta | None]
    """(resource, observed) -> when time alone will change something, the time until then."""
    may_wait: Callable[[Any, Observed], timedelta | None]
    """(resource, observed) -> how long its first status may wait, which would tell of nothing but the usual way; None: not at all."""
    is_terminal: Callable[[Any], bool]
    """Whether the resource's status has its end."""
    is_final: Callable[[dict[str, Any]], bool]
    """Whether a computed status ends it for good."""
    counts: Callable[[Any, dict[str, Any]], bool]
    """(resource, computed status) -> whether that tells of an attempt that ended, and was not told of before."""
