"""How a reconcile can end besides well: three words. What each becomes in conditions, as an Event and as a time to look again, is
decided in outcomes/ and reconcile.py, once for all kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alpaca_operator.api.status import FailureClass, Reason


@dataclass(frozen=True, slots=True)
class Exit:
    """``message``: what happened and what to do, in one line."""

    reason: Reason
    message: str

    transient: ClassVar[bool] = False
    """Whether it may pass without anybody's doing."""

    @property
    def failure_class(self) -> FailureClass:
        return "Infrastructure" if self.transient else "UserError"


@dataclass(frozen=True, slots=True)
class Waiting(Exit):
    """Not yet: a quota has no room. Looked at again by itself."""

    transient: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Refused(Exit):
    """Only a person can help: the API server, a policy or the planner does not take a child, or its pod."""


@dataclass(frozen=True, slots=True)
class Unavailable(Exit):
    """The API server does not answer, or has too much to do, or a webhook that it asks is down. Told once it lasts."""

    retry_after: float = 0.0
    """Seconds that the API server asks to wait."""

    transient: ClassVar[bool] = True
