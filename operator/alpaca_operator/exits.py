"""How a reconcile can end besides well: three words. What each becomes in conditions, as an Event and as a time to look again, is
decided in outcomes/ and reconcile.py, once for all kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from pydantic import ValidationError

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
class NamespaceGoing(Waiting):
    """Nothing is made any more in the resource's namespace, and the resource goes with it: told once, and not tried again."""


@dataclass(frozen=True, slots=True)
class Refused(Exit):
    """Only a person can help: the API server, a policy or the planner does not take a child, or its pod."""


@dataclass(frozen=True, slots=True)
class Unavailable(Exit):
    """The API server does not answer, or has too much to do, or a webhook that it asks is down. Told once it lasts."""

    retry_after: float = 0.0
    """Seconds that the API server asks to wait."""

    transient: ClassVar[bool] = True


class Unreadable(Exception):
    """The API server holds a resource that our models refuse; ``exit`` is what is told of that on it."""

    def __init__(self, exit: Exit) -> None:
        super().__init__(exit.message)
        self.exit = exit

    @classmethod
    def of(cls, error: ValidationError) -> Self:
        """Words that are unknown are those of a newer CRD. Of anything else it may be a person who has to correct it: our schema has changed
        since it was made, or cannot say all that our models ask for."""
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        fields = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in errors)[:LONGEST]
        if all(one["type"] == "literal_error" for one in errors):
            return cls(
                Refused(
                    Reason.OPERATOR_OUTDATED,
                    f"this operator does not know what it holds ({fields}): upgrade the operator",
                )
            )
        return cls(
            Refused(
                Reason.INVALID_SPEC,
                f"it cannot be read ({fields}): correct it; or, where its CRD is newer than this operator, upgrade the operator",
            )
        )


LONGEST = 800
"""Characters of what is wrong with a resource."""
