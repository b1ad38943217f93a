"""Plays the kubelet of one node on a control plane that has none: pods run, end, stop and are evicted as a test says."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from alpaca_operator.api.contract import LABEL_NAME, LABEL_PUSHER, ExitCode, Termination
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.resources import PODS, APIResource
from alpaca_operator.errors import ApiError, Unreachable

Object = dict[str, Any]
NODES = APIResource("", "v1", "nodes", "Node")
STRATEGIC = "application/strategic-merge-patch+json"


@dataclass(frozen=True)
class Outcome:
    """How a run ends."""

    exit_code: int = 0
    reason: Reason = Reason.SUCCEEDED
    message: str = "done"
    after: float = 0.0
    """Seconds that the pod runs."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further fields of the termination message."""

    def told(self) -> str:
        return Termination(reason=self.reason, exit_code=self.exit_code, message=self.message, **self.more).to_json()


INTERRUPTED = Outcome(ExitCode.INTERRUPTED, Reason.INTERRUPTED, "stopped after saving a checkpoint")


class Kubelet:
    """``outcomes`` by the name of the SFTJob; ``default`` for all others. None lets a pod run until it is told to stop."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self.kube = kube
        self.namespace = namespace
        self.node = f"node-of-{namespace}"
        self.default: Outcome | None = None
        self.outcomes: dict[str, Outcome] = {}
        self.pushes: Outcome | None = None
        """How pods end that push what a job has made."""
        self.pushed: Counter[str] = Counter()
        """How many of those have run."""
        self.starts_others = True
        """Whether pods of SFTJobs that ``outcomes`` does not name run too."""
        self.pod_address = "127.0.0.1"
        self.on_stop = INTERRUPTED
        self.room = {"cpu": "64", "memory": "256Gi", "pods": "1000", "ephemeral-storage": "1Ti", "example.org/gpu": "1"}
        """What the node has."""
        self.answers: Callable[[Object], bool] = lambda pod: True
        """Whether a pod that is started again and again becomes ready."""
        self.crashes: Callable[[Object], Outcome | None] = lambda pod: None
        """How such a pod ends, again and again."""
        self.holds_stopping_pods = False
        """A pod that was told to stop goes on saving while this is set."""
        self.started: Counter[str] = Counter()
        """How many pods of each SFTJob have run."""
        self.succeeded: Counter[str] = Counter()
        self.children: dict[str, set[str]] = defaultdict(set)
        """UIDs of the Jobs that those pods belonged to."""
        self._seen: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled. An API server that is away is waited for."""
        clock = asyncio.get_running_loop().time
        beat = 0.0
        while True:
            with suppress(ApiError, Unreachable):
                if clock() >= beat:
                    await self._beat()
                    beat = clock() + 5
                async for pod in self.kube.list(PODS, self.namespace):
                    with suppress(ApiError, Unreachable):
                        await self._tend(pod, clock())
            await asyncio.sleep(0.05)

    async def beat_only(self) -> None:
        """A node whose kubelet starts no pod; until cancelled."""
        while True:
            with suppress(ApiError, Unreachable):
                await self._beat()
            await asyncio.sleep(5)

    async def _tend(self, pod: Object, now: float) -> None:
        metadata, phase = pod["metadata"], pod["status"].get("phase")
        name, uid = metadata["labels"].get(LABEL_NAME, ""), metadata["uid"]
        is_pusher = LABEL_PUSHER in metadata["labels"]
        if not self.starts_others and name not in self.outcomes:
            return
        if metadata.get("deletionTimestamp"):
            if phase == "Running":
                if self.holds_stopping_pods:
                    return
                await self.end(pod, self.on_stop)
            await self._forget(pod)
        elif phase == "Pending" and pod["spec"].get("nodeName"):
            if uid not in self._seen:
                (self.pushed if is_pusher else self.started)[name] += 1
                self.children[name].update(owner["uid"] for owner in metadata.get("ownerReferences", []))
                self._seen[uid] = now
            await self._set(pod, "Running", {"running": {"startedAt": stamp()}})
        elif phase == "Running" and pod["spec"]["restartPolicy"] == "Always":
            await self._serve(pod)
        elif (
            phase == "Running"
            and (outcome := self.pushes if is_pusher else self.outcomes.get(name, self.default))
            and now >= self._seen.setdefault(uid, now) + outcome.after
        ):
            await self.end(pod, outcome)

    async def _serve(self, pod: Object) -> None:
        outcome, answers = self.crashes(pod), self.answers(pod)
        known = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}.get("Ready")
        if known == str(answers and not outcome):
            return
        last = {"lastState": self._ended(outcome)} if outcome else {}
        container = {
            "image": "i",
            "imageID": "i",
            "ready": answers and not outcome,
            "restartCount": 1 if outcome else 0,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}} if outcome else {"running": {"startedAt": stamp()}},
            **last,
        }
        status = {
            "containerStatuses": [{"name": one["name"], **container} for one in pod["spec"]["containers"]],
            "conditions": [{"type": "Ready", "status": str(answers and not outcome), "lastTransitionTime": stamp()}],
        }
        await self._patch(PODS, pod, {"status": status}, "status")

    async def end(self, pod: Object, outcome: Outcome) -> None:
        if outcome.exit_code == 0:
            self.succeeded[pod["metadata"]["labels"].get(LABEL_NAME, "")] += 1
        await self._set(pod, "Failed" if outcome.exit_code else "Succeeded", self._ended(outcome))

    @staticmethod
    def _ended(outcome: Outcome) -> Object:
        return {
            "terminated": {
                "exitCode": outcome.exit_code,
                "reason": "Error" if outcome.exit_code else "Completed",
                "message": outcome.told(),
                "startedAt": stamp(),
                "finishedAt": stamp(),
            }
        }

    async def _set(self, pod: Object, phase: str, state: Object) -> None:
        container = {"image": "i", "imageID": "i", "ready": "running" in state, "restartCount": 0, "state": state}
        status = {
            "phase": phase,
            "hostIP": "127.0.0.1",
            "podIP": self.pod_address,
            "podIPs": [{"ip": self.pod_address}],
            "startTime": stamp(),
            "containerStatuses": [{"name": one["name"], **container} for one in pod["spec"]["containers"]],
        }
        await self._patch(PODS, pod, {"status": status}, "status")

    async def _forget(self, pod: Object) -> None:
        path = PODS.path(self.namespace, pod["metadata"]["name"])
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        await self.kube.write("delete", "DELETE", PODS, path, options)

    async def _patch(self, api: APIResource, obj: Object, patch: Object, part: str) -> None:
        metadata = obj["metadata"]
        path = api.path(metadata.get("namespace"), metadata["name"], part)
        await self.kube.write("patch", "PATCH", api, path, patch, content_type=STRATEGIC)

    async def _beat(self) -> None:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node}}
        if await self.kube.get(NODES, None, self.node) is None:
            await self.kube.create(NODES, node)
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "played",
            "lastHeartbeatTime": stamp(),
            "lastTransitionTime": stamp(),
        }
        await self._patch(
            NODES, node, {"status": {"capacity": self.room, "allocatable": self.room, "conditions": [ready]}}, "status"
        )

    async def wait_ready(self) -> None:
        """Until the scheduler may put pods on the node."""
        async with asyncio.timeout(60):
            while not (node := await self.kube.get(NODES, None, self.node)) or node["spec"].get("taints"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def remove_node(self) -> None:
        with suppress(ApiError, Unreachable):
            await self.kube.write("delete", "DELETE", NODES, NODES.path(None, self.node), {})


def stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@asynccontextmanager
async def kubelet(kube: Kube, namespace: str) -> AsyncIterator[Kubelet]:
    player = Kubelet(kube, namespace)
    task = asyncio.create_task(player.run())
    try:
        await player.wait_ready()
        yield player
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await player.remove_node()
