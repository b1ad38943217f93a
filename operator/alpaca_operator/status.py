"""Pure: (resource, seen) -> the next status, and what that asks for."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import Any

from alpaca_operator.api import Resource
from alpaca_operator.diagnosis import Refusal
from alpaca_operator.observe import Seen


class Wish(Enum):
    """What a resource wants of its children."""

    EXIST = "the children must exist: missing ones are made"
    STAY = "what exists may stay; nothing is made"
    GO = "the children must not exist: they are deleted, their pods with them"


class Change(Enum):
    """What a new status changes."""

    NOTHING = "nothing"
    PROGRESS = "figures only: may wait for the budget"
    TRANSITION = "a condition, an attempt, a result: written at once"


def is_terminal(resource: Resource) -> bool:
    """Ended for good: Complete or Failed is True. Never undone."""
    raise NotImplementedError


def wish(resource: Resource, seen: Seen) -> Wish:
    """Whether the children must exist, may stay, or must go. A child is only given up after the status tells why."""
    raise NotImplementedError


def compute(resource: Resource, seen: Seen, refusal: Refusal | None) -> dict[str, Any]:
    """The whole next status, camelCase, without absent fields. Equal to the present one when nothing happened."""
    raise NotImplementedError


def change(before: dict[str, Any], after: dict[str, Any]) -> Change:
    raise NotImplementedError


def look_again(resource: Resource, seen: Seen) -> timedelta | None:
    """When time alone changes something (a TTL runs out), the time until then."""
    raise NotImplementedError
