"""Pure: a pod, or a refusal of the API server, told in one line with what to do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from alpaca_operator.api.contract import Termination
from alpaca_operator.api.status import FailureClass, Reason


@dataclass(frozen=True, slots=True)
class Refusal:
    """A child, or its pod, that the API server does not take."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is wrong with a pod: why it ended, or what it waits for (then ``failure_class`` is absent)."""

    reason: Reason
    message: str
    pod: str
    uid: str
    failure_class: FailureClass | None = None
    exit_code: int | None = None
    rank: int | None = None
    finished_at: str | None = None
    last_word: Termination | None = None


def diagnose(pod: dict[str, Any], now: datetime) -> Diagnosis | None:
    """The root cause, or None for a pod that runs, starts or ended well."""
    raise NotImplementedError


def refusal(code: int, message: str) -> Refusal | None:
    """What a 4xx answer to a create means for the user, by the API server's own words; None for anything else (a bug, or passing)."""
    raise NotImplementedError
