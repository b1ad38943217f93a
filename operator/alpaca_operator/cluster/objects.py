"""Objects as the API server sends them, and a typed reading of what is read in several places: conditions, pods, containers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Self

from alpaca_operator.api.contract import LABEL_INDEX

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ObjectCondition:
    """An entry of an object's ``status.conditions``; what it lacks is empty."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: str = ""

    @property
    def is_true(self) -> bool:
        return self.status == "True"


def condition(obj: Object | None, kind: str) -> ObjectCondition:
    """The condition of this type; one whose status is Unknown where the object has none, as Kubernetes reads it."""
    found: list[Object] = ((obj or {}).get("status") or {}).get("conditions") or []
    raw: Object = next((one for one in found if one.get("type") == kind), {})
    return ObjectCondition(
        type=kind,
        status=str(raw.get("status", "Unknown")),
        reason=str(raw.get("reason", "")),
        message=str(raw.get("message", "")),
        last_transition_time=str(raw.get("lastTransitionTime", "")),
    )


def true_condition(obj: Object | None, kind: str) -> ObjectCondition | None:
    """The condition of this type, where it holds."""
    found = condition(obj, kind)
    return found if found.is_true else None


def controller_of(obj: Object) -> Object | None:
    """The owner reference of the controller that an object belongs to."""
    owners: Iterable[Object] = obj["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A container that the kubelet has not started."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Terminated:
    """How a container ended."""

    exit_code: int | None
    reason: str = ""
    message: str = ""
    """Its termination message, or the kubelet's word."""
    finished_at: str | None = None

    @classmethod
    def read(cls, state: Object | None) -> Self | None:
        """Of a ``state`` or ``lastState``; None unless that is ``terminated``."""
        raw = (state or {}).get("terminated")
        if raw is None:
            return None
        return cls(raw.get("exitCode"), str(raw.get("reason", "")), raw.get("message") or "", raw.get("finishedAt"))


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """An entry of a pod's ``containerStatuses``."""

    name: str
    image: str | None
    ready: bool
    running: bool
    waiting: Waiting | None
    terminated: Terminated | None
    last_terminated: Terminated | None
    """How the run before the present one ended."""

    @classmethod
    def read(cls, raw: Object) -> Self:
        waiting = (raw.get("state") or {}).get("waiting")
        return cls(
            name=str(raw.get("name", "")),
            image=raw.get("image"),
            ready=bool(raw.get("ready")),
            running="running" in (raw.get("state") or {}),
            waiting=None
            if waiting is None
            else Waiting(str(waiting.get("reason", "")), str(waiting.get("message", ""))),
            terminated=Terminated.read(raw.get("state")),
            last_terminated=Terminated.read(raw.get("lastState")),
        )


@dataclass(frozen=True)
class Pod:
    """A pod; ``raw`` is as the API server sent it, not to be changed."""

    raw: Object

    @property
    def name(self) -> str:
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.raw["metadata"].get("namespace", "default"))

    @property
    def uid(self) -> str:
        return str(self.raw["metadata"].get("uid", ""))

    @property
    def labels(self) -> dict[str, str]:
        return self.raw["metadata"].get("labels") or {}

    @property
    def index(self) -> int:
        """The number of its node among pods that work together; 0 where it is alone."""
        number = self.labels.get(LABEL_INDEX, "0")
        return int(number) if number.isdecimal() else 0

    @property
    def created_at(self) -> str:
        return str(self.raw["metadata"].get("creationTimestamp", ""))

    @property
    def deletion_timestamp(self) -> str | None:
        """When it should be gone, of a pod that was told to stop."""
        found: str | None = self.raw["metadata"].get("deletionTimestamp")
        return found

    @property
    def told_to_stop_at(self) -> datetime | None:
        """When that was: its grace period before."""
        stamp = self.deletion_timestamp
        grace = self.raw["metadata"].get("deletionGracePeriodSeconds") or 0
        return parse_time(stamp) - timedelta(seconds=grace) if stamp else None

    @property
    def controller_uid(self) -> str | None:
        owner = controller_of(self.raw)
        return str(owner["uid"]) if owner else None

    @property
    def node(self) -> str:
        """Empty until it is placed."""
        return str(self.spec.get("nodeName", ""))

    @property
    def scheduling_gates(self) -> list[Object]:
        """Who holds it back before it is placed."""
        found: list[Object] = self.spec.get("schedulingGates") or []
        return found

    @property
    def spec(self) -> Object:
        return self.raw.get("spec") or {}

    @property
    def status(self) -> Object:
        return self.raw.get("status") or {}

    @property
    def phase(self) -> str:
        return str(self.status.get("phase", ""))

    @property
    def is_over(self) -> bool:
        """By its phase, which follows its containers by seconds."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def is_running(self) -> bool:
        return self.phase == "Running" and self.deletion_timestamp is None

    @property
    def is_ready(self) -> bool:
        return self.condition("Ready").is_true

    @property
    def runs_since(self) -> datetime | None:
        """When the first of its containers that run now began."""
        states = [one.get("state") or {} for one in self.status.get("containerStatuses") or ()]
        began = [state["running"].get("startedAt") for state in states if "running" in state]
        return min((parse_time(when) for when in began if when), default=None)

    @property
    def ip(self) -> str:
        """Empty until it has one."""
        return str(self.status.get("podIP", ""))

    @property
    def host_ip(self) -> str | None:
        found: str | None = self.status.get("hostIP")
        return found

    @cached_property
    def containers(self) -> list[ContainerStatus]:
        """Without those that prepare it."""
        return [ContainerStatus.read(one) for one in self.status.get("containerStatuses") or ()]

    @cached_property
    def all_containers(self) -> list[ContainerStatus]:
        """Those that prepare it first."""
        return [
            *(ContainerStatus.read(one) for one in self.status.get("initContainerStatuses") or ()),
            *self.containers,
        ]

    @cached_property
    def terminated(self) -> list[Terminated]:
        """How its containers ended, as far as they have."""
        return [one.terminated for one in self.containers if one.terminated]

    def container(self, name: str) -> ContainerStatus | None:
        return next((one for one in self.containers if one.name == name), None)

    @property
    def claims(self) -> list[str]:
        """PersistentVolumeClaims that it mounts."""
        volumes: list[Object] = self.spec.get("volumes") or []
        return [str(one["persistentVolumeClaim"]["claimName"]) for one in volumes if "persistentVolumeClaim" in one]

    def at_last_end(self) -> Pod | None:
        """The pod as if its containers that are not ready had not been started again: each as it ended last, and one that prepares it
        beside them, for the others do not start before it is ready. None where none has."""
        ended = [
            {**raw, "state": state}
            for raw in (
                *(self.status.get("initContainerStatuses") or ()),
                *(self.status.get("containerStatuses") or ()),
            )
            if not raw.get("ready")
            for state in [
                next((s for s in (raw.get("state"), raw.get("lastState")) if "terminated" in (s or {})), None)
            ]
            if state
        ]
        return (
            Pod({**self.raw, "status": {**self.status, "phase": "Failed", "containerStatuses": ended}})
            if ended
            else None
        )

    def condition(self, kind: str) -> ObjectCondition:
        return condition(self.raw, kind)

    def resources(self, kind: str, *containers: str) -> dict[str, str]:
        """``limits`` or ``requests`` of the first container that has one of these names."""
        ours: Object = next((one for one in self.spec.get("containers") or () if one.get("name") in containers), {})
        return {name: str(value) for name, value in ((ours.get("resources") or {}).get(kind) or {}).items()}


def parse_time(stamp: str) -> datetime:
    """Of Kubernetes: RFC 3339, in UTC."""
    return datetime.fromisoformat(stamp.replace("Z", "+00:00"))
