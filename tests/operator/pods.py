"""Pods and Jobs as the API server sends them, showing only what matters to the case."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from alpaca_operator.api.contract import CONTAINER, Termination

Object = dict[str, Any]

START = datetime(2026, 1, 1, tzinfo=UTC)
JOB_UID = "uid-job"


def at(seconds: float) -> str:
    """A time stamp so many seconds after the start."""
    return (START + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(name: str = "poet-sft-a", *, of: str = JOB_UID, made: float = 0, phase: str = "Pending", **more: Any) -> Object:
    """``more``: metadata, spec and status, each laid over what is here."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "poetry",
            "uid": f"uid-{name}",
            "creationTimestamp": at(made),
            "ownerReferences": [{"kind": "Job", "name": "poet-sft", "uid": of, "controller": True}],
            **more.get("metadata", {}),
        },
        "spec": {"nodeName": "n1", "containers": [{"name": CONTAINER, "resources": {}}], **more.get("spec", {})},
        "status": {"phase": phase, **more.get("status", {})},
    }


def ended(
    code: int,
    name: str = "poet-sft-a",
    *,
    says: str | Termination = "",
    reason: str = "Error",
    finished: float = 60,
    disrupted: str = "",
    resources: Object | None = None,
    status: Object | None = None,
    **more: Any,
) -> Object:
    """A pod whose container has ended. ``says``: its termination message; ``disrupted``: the reason of DisruptionTarget."""
    message = says if isinstance(says, str) else says.to_json()
    terminated = {"exitCode": code, "reason": reason, "finishedAt": at(finished)} | (
        {"message": message} if message else {}
    )
    conditions = [
        {"type": "DisruptionTarget", "status": "True", "reason": disrupted, "lastTransitionTime": at(finished)}
    ]
    return pod(
        name,
        phase="Failed" if code else "Succeeded",
        spec={"containers": [{"name": CONTAINER, "resources": resources or {}}]},
        status={
            "containerStatuses": [{"name": CONTAINER, "state": {"terminated": terminated}}],
            "conditions": conditions if disrupted else [],
            **(status or {}),
        },
        **more,
    )


def running(name: str = "poet-sft-a", **more: Any) -> Object:
    return pod(
        name,
        phase="Running",
        status={"containerStatuses": [{"name": CONTAINER, "state": {"running": {"startedAt": at(0)}}}]},
        **more,
    )


def beside(
    obj: Object,
    state: Object,
    name: str = "istio-proxy",
    *,
    phase: str | None = None,
    init: bool = False,
    last: Object | None = None,
) -> Object:
    """The pod with one container more, first in its list, which somebody put into it: in this ``state``."""
    one = {"name": name, "state": state, "lastState": last or {}}
    status = obj["status"]
    where = "initContainerStatuses" if init else "containerStatuses"
    return {**obj, "status": {**status, "phase": phase or status["phase"], where: [one, *status.get(where, [])]}}


RUNS: Object = {"running": {"startedAt": at(0)}}


def failed_with(code: int, finished: float = 30, message: str = "") -> Object:
    return {"terminated": {"exitCode": code, "reason": "Error", "finishedAt": at(finished), "message": message}}


def stopped(obj: Object, at_second: float, grace: int = 20) -> Object:
    """The pod as somebody has told it to stop."""
    metadata = {"deletionTimestamp": at(at_second + grace), "deletionGracePeriodSeconds": grace}
    return {
        **obj,
        "metadata": {**obj["metadata"], **metadata},
        "spec": {**obj["spec"], "terminationGracePeriodSeconds": grace},
    }


def waiting(reason: str, message: str = "", image: str = "registry.example/sft:1") -> Object:
    """A pod whose container the kubelet has not started."""
    state = {"waiting": {"reason": reason, "message": message}}
    return pod(status={"containerStatuses": [{"name": CONTAINER, "image": image, "state": state}]})


def unplaced(
    message: str, *, resources: Object | None = None, claims: tuple[str, ...] = (), reason: str = "Unschedulable"
) -> Object:
    """A pod that the scheduler cannot place."""
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    volumes = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims]
    containers = [{"name": CONTAINER, "resources": resources or {}}]
    return pod(spec={"nodeName": "", "containers": containers, "volumes": volumes}, status={"conditions": [condition]})


def placed(*, ready: str, when: float = 0) -> Object:
    """A pod that is on a node, where its volumes and network are ready (``True``) or not (``False``)."""
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(when)},
        {"type": "PodReadyToStartContainers", "status": ready, "lastTransitionTime": at(when)},
    ]
    state = {"waiting": {"reason": "ContainerCreating"}}
    return pod(status={"conditions": conditions, "containerStatuses": [{"name": CONTAINER, "state": state}]})


def job(
    *,
    condition: str = "",
    reason: str = "",
    when: float = 90,
    spec: Object | None = None,
    started: str = "",
    **metadata: Any,
) -> Object:
    """The child."""
    conditions = [{"type": condition, "status": "True", "reason": reason, "lastTransitionTime": at(when)}]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "poet-sft", "namespace": "poetry", "uid": JOB_UID, **metadata},
        "spec": spec or {},
        "status": {"conditions": conditions if condition else []}
        | ({"startTime": started} if started else {})
        | ({"completionTime": at(when)} if condition == "Complete" else {}),
    }
