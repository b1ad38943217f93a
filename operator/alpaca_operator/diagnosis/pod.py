"""A pod as the checks read it."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from pydantic import ValidationError

from alpaca_operator.api.contract import CONTAINER, ENGINE_CONTAINER, NEVER_RETRIED, ExitCode, Termination
from alpaca_operator.cluster.objects import ContainerStatus, Pod, Terminated, Waiting
from alpaca_operator.diagnosis.text import last_line


@dataclass(frozen=True)
class ExaminedPod(Pod):
    """A pod as the checks read it, at a moment."""

    now: datetime

    @cached_property
    def culprit(self) -> Terminated | None:
        """How the container ended that is to blame."""
        return root_cause(
            [one.terminated for one in self.all_containers if one.terminated and one.terminated.exit_code]
        )

    @cached_property
    def ended(self) -> bool:
        """The phase follows seconds after the container; an evicted pod may be gone before it does."""
        ours = next((one for one in self.all_containers if one.name == CONTAINER), None)
        return self.phase == "Failed" or bool(ours and ours.terminated and ours.terminated.exit_code)

    @property
    def exit_code(self) -> int | None:
        return self.culprit.exit_code if self.culprit else None

    @property
    def termination(self) -> Termination | None:
        return parse_termination(self.culprit.message) if self.culprit else None

    @property
    def last_line(self) -> str:
        """Of what the container printed that is to blame."""
        return last_line(self.culprit.message) if self.culprit else ""

    def asks_for(self, kind: str) -> dict[str, str]:
        """Limits or requests of the workload's container."""
        return self.resources(kind, CONTAINER, ENGINE_CONTAINER)

    def waiting(self) -> Iterable[tuple[ContainerStatus, Waiting]]:
        """Each container that the kubelet has not started, for a reason."""
        return ((one, one.waiting) for one in self.all_containers if one.waiting and one.waiting.reason)


def root_cause(states: list[Terminated]) -> Terminated | None:
    """Of several terminated containers the one whose exit says most, then the earliest: the others are collateral."""
    return min(states, key=lambda state: (_vagueness(state), state.finished_at or "~"), default=None)


def parse_termination(text: str | None) -> Termination | None:
    """The termination message, if the workload wrote it; anything else (a log's tail, a truncated line) is None."""
    try:
        return Termination.model_validate_json(text or "")
    except ValidationError:
        return None


def ended_at(pod: ExaminedPod) -> str | None:
    """When its container ended; of a pod that vanished with its node, when that was noticed."""
    return (pod.culprit and pod.culprit.finished_at) or pod.condition("DisruptionTarget").last_transition_time or None


def _vagueness(state: Terminated) -> int:
    """0 for a cause that names itself, up to 3 for a peer that only lost its connection or was told to stop."""
    code = state.exit_code
    if state.reason == "OOMKilled" or code in NEVER_RETRIED or code == ExitCode.HUNG:
        return 0
    if code == ExitCode.INTERNAL:
        return 1
    return 3 if code in (ExitCode.INTERRUPTED, 128 + signal.SIGTERM, 128 + signal.SIGKILL) else 2
