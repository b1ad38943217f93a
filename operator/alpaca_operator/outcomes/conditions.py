"""Pure: what the status of every kind is made of, and what a resource may want of its children."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, TypeVar

from alpaca_operator.api import tolerant
from alpaca_operator.api.status import Condition, ConditionStatus, Reason, ResourceStatus
from alpaca_operator.cluster.objects import Object
from alpaca_operator.exits import Exit
from alpaca_operator.inputs import MissingInput
from alpaca_operator.outcomes.verdict import Verdict

FIGURES = ("progress", "checkpoint", "traffic", "nodes")
"""Fields of a status that change while nothing happens."""

ASIDE = ("startTime", "operator")
"""Fields that are told with what else there is to tell."""

INPUTS_MISSING = frozenset({Reason.INPUT_NOT_FOUND, Reason.VOLUME_NOT_READY})
"""Reasons that make InputsReady False."""

InputsReady = tuple[str, Reason, str]
"""Status, reason and message of the condition."""


S = TypeVar("S", bound=ResourceStatus)


class Change(Enum):
    """What a new status changes."""

    NOTHING = auto()
    PROGRESS = auto()
    """Figures only; may wait for the budget of writes."""
    TRANSITION = auto()
    """A condition, an attempt, a result: written at once."""


def condition(
    before: ResourceStatus, now: datetime, generation: int, kind: Condition, status: str, reason: Reason, message: str
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
    generation: int,
    verdict: Verdict,
    states: Mapping[Condition, bool],
    inputs_ready: InputsReady,
) -> list[ConditionStatus]:
    """One verdict as all conditions that it decides, and InputsReady. Its message stands where a condition holds, and always at Ready,
    which people read."""
    found = [
        condition(
            before,
            now,
            generation,
            kind,
            "True" if true else "False",
            verdict.reason,
            verdict.message if true or kind is Condition.READY else "",
        )
        for kind, true in states.items()
    ]
    return [*found, condition(before, now, generation, Condition.INPUTS_READY, *inputs_ready)]


def of_unread(model: type[ResourceStatus], obj: Object, exit: Exit, now: datetime) -> dict[str, Any]:
    """The next status of a resource of which no more can be said: as it was, and this."""
    before = read(model, obj.get("status") or {})
    generation = obj["metadata"].get("generation") or 0
    answers = any(one.type == Condition.READY and one.status == "True" for one in before.conditions)
    states = {Condition.READY: answers, Condition.RECONCILING: exit.transient, Condition.STALLED: not exit.transient}
    found = [
        condition(before, now, generation, kind, "True" if true else "False", exit.reason, exit.message)
        for kind, true in states.items()
    ]
    others = [one for one in before.conditions if one.type not in states]
    return dump(before.model_copy(update={"conditions": [*found, *others], "observed_generation": generation}))


ESSENTIAL = (
    "operator",
    "observedGeneration",
    "conditions",
    "restarts",
    "output",
    "publications",
    "startTime",
    "activeTime",
    "completionTime",
)
"""Fields that later looks go by."""


def essential(before: dict[str, Any], after: dict[str, Any], exit: Exit) -> dict[str, Any]:
    """Of a next status that is not taken what matters, beside what stands already; and why it is not all."""
    kept = {name: value for name, value in before.items() if name not in ESSENTIAL}
    known = {name: value for name, value in after.items() if name in ESSENTIAL}
    told = [
        {**one, "message": f"{one['message']}; {exit.message}"} if one["type"] == Condition.READY else one
        for one in known.get("conditions", [])
    ]
    return {**kept, **known, "conditions": told}


def read(model: type[S], written: dict[str, Any]) -> S:
    """A status as it lies at the API server, without what cannot be read of it: another version has written that."""
    return tolerant.read(model, written)[0]


def inputs_ready(missing: MissingInput | None, verdict: Verdict, otherwise: InputsReady) -> InputsReady:
    """``otherwise``: where neither says that an input is missing."""
    if missing is not None:
        return "False", missing.reason, missing.message
    if verdict.reason in INPUTS_MISSING:
        return "False", verdict.reason, verdict.message
    return otherwise


def change(before: dict[str, Any], after: dict[str, Any], model: type[ResourceStatus]) -> Change:
    """What writing ``after`` in place of ``before`` would change; ``before`` may lack or carry defaults."""
    present = dump(read(model, before))
    # That the first pod is there is told with what it does next, and who works on it with anything: by itself neither is worth a write.
    if _without(present, ASIDE) == _without(after, ASIDE):
        return Change.NOTHING
    same = _without(present, (*FIGURES, *ASIDE)) == _without(after, (*FIGURES, *ASIDE))
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
