"""Pure: where a resource stands, why, and what it wants of its children: the words that jobs and deployments share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from alpaca_operator.api.status import Failure, Reason
from alpaca_operator.diagnosis.model import Diagnosis
from alpaca_operator.exits import Exit, Unavailable


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


def while_unavailable(verdict: Verdict, exit: Exit | None) -> Verdict:
    """What stands goes on standing; what was to be done is not done, and that is told beside it. An end is an end."""
    if not isinstance(exit, Unavailable) or verdict.ended_at is not None:
        return verdict
    standing = Standing.WORKING if verdict.standing is Standing.DONE else verdict.standing
    reason = exit.reason if verdict.reason is Reason.PENDING else verdict.reason  # nothing stands yet: this is why
    return replace(verdict, standing=standing, reason=reason, message=f"{verdict.message}; {exit.message}")


def failure_of(cause: Diagnosis | Exit | None) -> Failure | None:
    """As the status has it."""
    if cause is None:
        return None
    known: dict[str, Any] = {"class": cause.failure_class, "reason": cause.reason.value, "message": cause.message}
    if isinstance(cause, Diagnosis):
        known |= {"exitCode": cause.exit_code, "pod": cause.pod or None, "rank": cause.rank}
    return Failure.model_validate(known)
