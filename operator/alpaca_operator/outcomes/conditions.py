"""Pure: what the status of every kind is made of, and what a resource may want of its children."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

from alpaca_operator.api.status import Condition, ConditionStatus, Reason, ResourceStatus

FIGURES = ("progress", "checkpoint", "traffic")
"""Fields of a status that change while nothing happens."""


class Change(Enum):
    """What a new status changes."""

    NOTHING = auto()
    PROGRESS = auto()
    """Figures only; may wait for the budget of writes."""
    TRANSITION = auto()
    """A condition, an attempt, a result: written at once."""


def condition(
    before: ResourceStatus,
    now: datetime,
    kind: Condition,
    status: str,
    reason: Reason,
    message: str,
    generation: int,
) -> ConditionStatus:
    """A condition that keeps the time of its last transition while its status stays."""
    known = next((one for one in before.conditions if one.type == kind), None)
    since = known.last_transition_time if known and known.status == status else stamp(now)
    return ConditionStatus.model_validate(
        {
            "type": kind.value,
            "status": status,
            "reason": reason.value,
            "message": message,
            "lastTransitionTime": since,
            "observedGeneration": generation,
        }
    )


def conditions(
    before: ResourceStatus,
    now: datetime,
    states: Mapping[Condition, bool],
    reason: Reason,
    message: str,
    generation: int,
) -> list[ConditionStatus]:
    """One verdict as all conditions that it decides. The message stands where a condition holds, and always at Ready, which people read."""
    return [
        condition(
            before,
            now,
            kind,
            "True" if true else "False",
            reason,
            message if true or kind is Condition.READY else "",
            generation,
        )
        for kind, true in states.items()
    ]


def change(before: dict[str, Any], after: dict[str, Any], model: type[ResourceStatus]) -> Change:
    """What writing ``after`` in place of ``before`` would change; ``before`` may lack or carry defaults."""
    present = dump(model.model_validate(before))
    # That the first pod is there is told with what it does next: by itself it is not worth a write.
    if _without(present, ("startTime",)) == _without(after, ("startTime",)):
        return Change.NOTHING
    same = _without(present, FIGURES) == _without(after, FIGURES)
    return Change.PROGRESS if same else Change.TRANSITION


def dump(status: ResourceStatus) -> dict[str, Any]:
    """As it is written to the API server: camelCase, absent fields left out, NaN and infinities as null."""
    written: dict[str, Any] = _finite(status.model_dump(by_alias=True, exclude_none=True, mode="json"))
    if not written.get("attempts", True):
        del written["attempts"]
    return written


def stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _without(written: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in written.items() if key not in keys}


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else value
