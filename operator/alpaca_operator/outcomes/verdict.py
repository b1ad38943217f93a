"""Pure: where a resource stands, why, and what it wants of its children: the words that jobs and deployments share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from alpaca_operator.api.status import (
    Reason,
)
from alpaca_operator.diagnosis.model import Diagnosis, Refusal


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
    cause: Diagnosis | Refusal | None = None
    """What `status.failure` tells."""
    ended_at: str | None = None
