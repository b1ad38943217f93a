"""A pod as the checks read it."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError

from alpaca_operator.api.contract import CONTAINER, ENGINE_CONTAINER, NEVER_RETRIED, ExitCode, Termination
from alpaca_operator.cluster.objects import Object


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the checks read it."""

    raw: Object
    now: datetime
    ended: bool = field(init=False)
    culprit: Object | None = field(init=False)
    """The terminated state of the container that is to blame."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "culprit", root_cause(self._terminated()))
        # The phase follows seconds after the container; an evicted pod may be gone before it does.
        ours = next((one for one in self.containers() if one.get("name") == CONTAINER), {})
        dead = ((ours.get("state") or {}).get("terminated") or {}).get("exitCode", 0) != 0
        object.__setattr__(self, "ended", self.status.get("phase") == "Failed" or dead)

    @property
    def name(self) -> str:
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.raw["metadata"].get("namespace", "default"))

    @property
    def node(self) -> str:
        return str(self.raw.get("spec", {}).get("nodeName", ""))

    @property
    def status(self) -> Object:
        found: Object = self.raw.get("status") or {}
        return found

    @property
    def exit_code(self) -> int | None:
        return self.culprit.get("exitCode") if self.culprit else None

    @property
    def termination(self) -> Termination | None:
        return parse_termination(self.culprit.get("message")) if self.culprit else None

    def condition(self, kind: str) -> Object:
        conditions: list[Object] = self.status.get("conditions") or []
        return next((one for one in conditions if one.get("type") == kind), {})

    def resources(self, kind: str) -> dict[str, str]:
        """Limits or requests of the workload's container."""
        containers: list[Object] = self.raw.get("spec", {}).get("containers") or []
        ours = next((one for one in containers if one.get("name") in (CONTAINER, ENGINE_CONTAINER)), {})
        return {name: str(value) for name, value in ((ours.get("resources") or {}).get(kind) or {}).items()}

    def containers(self) -> list[Object]:
        found: list[Object] = [*(self.status.get("initContainerStatuses") or [])]
        return [*found, *(self.status.get("containerStatuses") or [])]

    def waiting(self) -> Iterable[tuple[Object, str, str]]:
        """(container status, reason, message) of each container that the kubelet has not started."""
        for container in self.containers():
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason"):
                yield container, str(waiting["reason"]), str(waiting.get("message", ""))

    def _terminated(self) -> list[Object]:
        states = [(container.get("state") or {}).get("terminated") for container in self.containers()]
        return [state for state in states if state and state.get("exitCode")]


def root_cause(states: list[Object]) -> Object | None:
    """Of several terminated containers the one whose exit says most, then the earliest: the others are collateral."""
    return min(states, key=lambda state: (_vagueness(state), str(state.get("finishedAt") or "~")), default=None)


def parse_termination(text: str | None) -> Termination | None:
    """The termination message, if the workload wrote it; anything else (a log's tail, a truncated line) is None."""
    try:
        return Termination.model_validate_json(text or "")
    except ValidationError:
        return None


def ended_at(pod: Pod) -> str | None:
    """When its container ended; of a pod that vanished with its node, when that was noticed."""
    stamp = (pod.culprit or {}).get("finishedAt") or pod.condition("DisruptionTarget").get("lastTransitionTime")
    return str(stamp) if stamp else None


def _vagueness(state: Object) -> int:
    """0 for a cause that names itself, up to 3 for a peer that only lost its connection or was told to stop."""
    code = state.get("exitCode")
    if state.get("reason") == "OOMKilled" or code in NEVER_RETRIED or code == ExitCode.HUNG:
        return 0
    if code == ExitCode.INTERNAL:
        return 1
    return 3 if code in (ExitCode.INTERRUPTED, 128 + signal.SIGTERM, 128 + signal.SIGKILL) else 2
