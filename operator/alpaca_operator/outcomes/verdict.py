"""Pure: where a resource stands, why, and what it wants of its children: the words that jobs and deployments share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from alpaca_operator.api.status import Failure, Reason
from alpaca_operator.diagnosis.model import Diagnosis
from alpaca_operator.exits import Exit


class Desired(Enum):
    """What a resource wants of its children."""

    PRESENT = auto()
    """They must exist: missing ones are made."""
    UNCHANGED = auto()
    """What exists may stay, nothing is made."""
    STOPPED = auto()
    """What runs must stop and not start again; what has ended stays for its logs."""
    ABSENT = auto()
    """They must not exist: they are deleted, and their pods with them."""


class Standing(Enum):
    """Where a resource stands, as kstatus distinguishes."""

    WORKING = auto()
    """Work goes on, or is waited for."""
    HELD = auto()
    """By `spec.suspend`."""
    STUCK = auto()
    """Only a person can help; then it goes on."""
    DONE = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where the resource stands, and the line that says why."""

    standing: Standing
    reason: Reason
    message: str
    cause: Diagnosis | Exit | None = None
    """What `status.failure` tells."""
    ended_at: str | None = None


def failure_of(cause: Diagnosis | Exit | None) -> Failure | None:
    """As the status has it."""
    if cause is None:
        return None
    known: dict[str, Any] = {"class": cause.failure_class, "reason": cause.reason.value, "message": cause.message}
    if isinstance(cause, Diagnosis):
        known |= {"exitCode": cause.exit_code, "pod": cause.pod or None, "rank": cause.rank}
    return Failure.model_validate(known)
