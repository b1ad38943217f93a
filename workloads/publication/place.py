"""What every place has that a model is pushed to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from alpaca_operator.api.contract import PushedTo
from alpaca_operator.api.publication import Publication
from alpaca_operator.api.status import Reason
from workloads.errors import SpecError, WorkloadError
from workloads.publication.bundle import Bundle


class PushRefused(SpecError):
    """The place does not take the push, and would not the next time: its token, its name, what lies there already."""

    reason = Reason.PUBLISH_REFUSED
    publications: Sequence[PushedTo] = ()
    """Other places that have taken it."""


class PlaceUnreachable(WorkloadError):
    """The place did not answer, or not sensibly. It may the next time, so the push is tried again."""

    publications: Sequence[PushedTo] = ()


class Place(Protocol):
    """A repository that takes models."""

    address: str
    """How those who load a model from it call it."""

    def push(self, pushed: Bundle) -> str:
        """The revision in which it holds ``pushed``; nothing is sent where it does already. Raises PushRefused, PlaceUnreachable."""


@dataclass(frozen=True)
class Target:
    """A place of ``spec.publish``, and how it is reached."""

    asked: Publication
    where: str
    """Field and uri, as messages begin."""
    credentials: Mapping[str, str]
    """The environment, with the keys of this place's own Secret."""
    log: Callable[[str], None]
    heartbeat: Callable[[], None]

    @property
    def private(self) -> bool:
        """Of a repository that has to be made."""
        return self.asked.private is None or self.asked.private

    def token_state(self, variable: str) -> str:
        """The variable of a token as messages name it."""
        if self.credentials.get(variable):
            return f"{variable}, which is set"
        return f"{variable}, which is not set (in a pod: secretRef of this place)"
