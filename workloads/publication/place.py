"""What every place has that a model is pushed to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from alpaca_operator.api.contract import ARTIFACT_FILE, Artifact, PushedTo
from alpaca_operator.api.publication import Publication
from alpaca_operator.api.status import Reason
from workloads.errors import SpecError, WorkloadError
from workloads.publication.bundle import Bundle
from workloads.storage.contents import PICKLED
from workloads.system.describe import some


class PushRefused(SpecError):
    """The place does not take the push, and would not the next time: its token, its name, what lies there already."""

    reason = Reason.PUBLISH_REFUSED
    publications: Sequence[PushedTo] = ()
    """Other places that have taken it."""


class PlaceUnreachable(WorkloadError):
    """The place did not answer, or not sensibly. It may the next time, so the push is tried again."""

    publications: Sequence[PushedTo] = ()


WEIGHTS = (".safetensors", ".gguf", ".pth", ".pt", *PICKLED)


def must_be_ours(names: Collection[str], there: Artifact | None, where: str) -> None:
    """Of a repository of a hub with these files, of which ``there`` is the artifact.json as far as it can be read: another's are not
    replaced, and nobody finds ours among them. Raises PushRefused."""
    if ARTIFACT_FILE in names and there is None:
        raise PushRefused(
            f"{where}: the {ARTIFACT_FILE} there cannot be read, so nobody knows whose these files are: name another repository, or empty it"
        )
    if there is None and (weights := [name for name in names if name.endswith(WEIGHTS)]):
        raise PushRefused(
            f"{where}: it has weights ({some(weights)}) and no {ARTIFACT_FILE}, so they are not ours to replace: name another repository or "
            "branch, or remove them"
        )


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
