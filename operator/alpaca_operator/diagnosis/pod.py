"""A pod as the checks read it."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from alpaca_operator.api.contract import (
    CONTAINER,
    CONTAINERS,
    ENGINE_CONTAINER,
    NEVER_RETRIED,
    ExitCode,
    Termination,
)
from alpaca_operator.cluster.objects import ContainerStatus, Pod, Terminated, Waiting, parse_time
from alpaca_operator.diagnosis.text import last_line


@dataclass(frozen=True)
class ExaminedPod(Pod):
    """A pod as the checks read it, at a moment."""

    now: datetime

    @cached_property
    def culprit(self) -> Terminated | None:
        """How the container ended that is to blame. One of ours: what others put into a pod may end as it likes."""
        return root_cause([one.terminated for one in self._ours if one.terminated and one.terminated.exit_code])

    @cached_property
    def bystander(self) -> tuple[str, Terminated] | None:
        """Of a pod that failed without any of ours: which container of others did, and how."""
        failed = [
            (one.name, one.terminated)
            for one in self.all_containers
            if one.name not in CONTAINERS and one.terminated and one.terminated.exit_code
        ]
        return min(failed, key=lambda one: one[1].finished_at or "~", default=None)

    @cached_property
    def ended(self) -> bool:
        """Badly. The phase follows seconds after the container, or never where others go on; an evicted pod may be gone before it does."""
        return not ended_well(self) and (self.phase == "Failed" or workload_ended(self) is not None)

    @property
    def killed_on_request(self) -> bool:
        """Whether it ended after it had been told to stop: whoever asked for that, the pod's end is no failure of its own."""
        asked = self.told_to_stop_at
        at = ended_at(self)
        return asked is not None and (at is None or parse_time(at) >= asked)

    @property
    def _ours(self) -> list[ContainerStatus]:
        return [one for one in self.containers if one.name in CONTAINERS]

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


def workload_ended(pod: Pod) -> Terminated | None:
    """How the container ended that does a job's work; None while it has not, and of a deployment's pod, which has none."""
    workload = pod.container(CONTAINER)
    return workload.terminated if workload else None


def ended_well(pod: Pod) -> bool:
    """Its work is done, whatever becomes of what others put beside it."""
    done = workload_ended(pod)
    return pod.phase == "Succeeded" or (done is not None and done.exit_code == 0)


def is_spent(pod: Pod) -> bool:
    """Its workload has ended, well or not, and containers of others keep the pod going: nothing else will end it."""
    others = any(one.name not in CONTAINERS and one.running for one in pod.containers)
    return workload_ended(pod) is not None and others and not pod.is_over and not pod.deletion_timestamp


def root_cause(states: list[Terminated]) -> Terminated | None:
    """Of several terminated containers the one whose exit says most, then the earliest: the others are collateral."""
    return min(states, key=lambda state: (_vagueness(state), state.finished_at or "~"), default=None)


def parse_termination(text: str | None) -> Termination | None:
    """The termination message, if the workload wrote it; anything else (a log's tail, a truncated line) is None."""
    try:
        return Termination.hear(text or "")
    except ValueError:
        return None


def ended_at(pod: ExaminedPod) -> str | None:
    """When its container ended; of a pod that vanished with its node, when that was noticed."""
    blamed = pod.culprit or (pod.bystander and pod.bystander[1])
    return (blamed and blamed.finished_at) or pod.condition("DisruptionTarget").last_transition_time or None


def _vagueness(state: Terminated) -> int:
    """0 for a cause that names itself, up to 3 for a peer that only lost its connection or was told to stop."""
    code = state.exit_code
    if state.reason == "OOMKilled" or code in NEVER_RETRIED or code == ExitCode.HUNG:
        return 0
    if code == ExitCode.INTERNAL:
        return 1
    return 3 if code in (ExitCode.INTERRUPTED, 128 + signal.SIGTERM, 128 + signal.SIGKILL) else 2
