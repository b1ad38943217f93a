"""What a test does as a user of a namespace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.resources import EVENTS, JOBS, PODS, RESOURCES
from tests.cluster.bed.controlplane import ControlPlane
from tests.operator.kubelet import NODES, Kubelet
from tests.operator.process import OperatorProcess

Object = dict[str, Any]
SFTJOBS = RESOURCES["SFTJob"]


@dataclass
class Team:
    """A namespace."""

    plane: ControlPlane
    kube: Kube
    namespace: str
    kubelet: Kubelet

    async def apply(self, name: str = "poet", **spec: Any) -> Object:
        return await self.kube.create(SFTJOBS, sft_job(self.namespace, name, **spec))

    async def set(self, name: str = "poet", **spec: Any) -> None:
        found = await self.job(name)
        await self.kube.merge(SFTJOBS, found, {"spec": spec})

    async def job(self, name: str = "poet") -> Object:
        found = await self.kube.get(SFTJOBS, self.namespace, name)
        assert found is not None, f"no SFTJob {name}"
        return found

    async def child(self, name: str = "poet") -> Object | None:
        return await self.kube.get(JOBS, self.namespace, f"{name}-sft")

    async def pods(self) -> list[Object]:
        return [pod async for pod in self.kube.list(PODS, self.namespace)]

    async def events(self, at_least: int = 0, seconds: float = 60) -> list[tuple[str, str]]:
        """(reason, note) of the Events about SFTJobs, oldest first. An Event follows the status that it tells of, so it is waited for."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            found = [
                event
                async for event in self.kube.list(EVENTS, self.namespace)
                if event.get("regarding", {}).get("kind") == "SFTJob"
            ]
            if len(found) >= at_least or asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.1)
        found.sort(key=lambda event: int(event["metadata"]["resourceVersion"]))
        return [(event["reason"], event["note"]) for event in found]

    async def suspend_child(self, suspend: bool, name: str = "poet") -> None:
        """As a queueing system does."""
        child = await self.child(name)
        assert child is not None
        await self.kube.merge(JOBS, child, {"spec": {"suspend": suspend}})

    async def until_the_node_has(self, cpu: str) -> None:
        async with asyncio.timeout(60):
            while (await self.kube.get(NODES, None, self.kubelet.node) or {})["status"]["allocatable"]["cpu"] != cpu:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def gone_or_new(self) -> None:
        """Waits until no Job and no pod is about to go."""
        async with asyncio.timeout(60):
            while any("deletionTimestamp" in one["metadata"] for one in [*await self.pods(), *await self.children()]):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def alone(self, operator: OperatorProcess) -> None:
        """Waits until the operator knows of nothing in other namespaces: its writes for all of them are counted together."""
        ours = sum([1 for api in RESOURCES.values() async for _ in self.kube.list(api, self.namespace)])
        async with asyncio.timeout(60):
            while operator.resources() > ours:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def clear(self) -> None:
        """Its resources go. When a namespace goes its pods go first, and without a kubelet they never do: until then the operator would go
        on working for what is left in it."""
        for api in RESOURCES.values():
            await self.kube.call("DELETE", api.path(self.namespace))

    async def children(self) -> list[Object]:
        return [job async for job in self.kube.list(JOBS, self.namespace)]

    async def gone(self) -> None:
        """Waits until no Job and no pod is left."""
        async with asyncio.timeout(60):
            while await self.child() or await self.pods():  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def quiet(self) -> None:
        """Waits until no pod runs or is about to."""
        async with asyncio.timeout(60):
            while any(pod["status"]["phase"] in ("Pending", "Running") for pod in await self.pods()):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def state(self, name: str, *reasons: str, seconds: float = 60) -> Object:
        """Waits until the STATE column is one of ``reasons``; the SFTJob as it is then."""
        return await self.until(name, lambda job: ready(job).get("reason") in reasons, " or ".join(reasons), seconds)

    async def until(self, name: str, holds: Callable[[Object], bool], what: str, seconds: float = 60) -> Object:
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            job = await self.job(name)
            if holds(job):
                return job
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(
                    f"{name} is not {what} after {seconds:.0f} s, but {json.dumps(job['status'], indent=1)}"
                )
            await asyncio.sleep(0.1)


def sft_job(namespace: str, name: str, **spec: Any) -> Object:
    """Inputs and output that need no claim, so that the scheduler takes the pod as it is."""
    return {
        "apiVersion": SFTJOBS.api_version,
        "kind": SFTJOBS.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"uri": "hf://example/tiny"},
            "dataset": {"train": [{"uri": "s3://data/train.jsonl"}]},
            "output": {"uri": f"s3://models/{name}"},
            **spec,
        },
    }


def ready(job: Object) -> Object:
    """What an operator has told; nothing before one has."""
    status = job.get("status", {})
    conditions = status.get("conditions", []) if status.get("observedGeneration") != -1 else []
    return next((each for each in conditions if each["type"] == "Ready"), {})


def conditions(job: Object) -> dict[str, str]:
    return {each["type"]: each["status"] for each in job["status"].get("conditions", [])}
