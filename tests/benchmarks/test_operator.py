"""What the operator costs, on a control plane of its own: figures, each beside the same work done without it.

Times are printed and not judged: they depend on the machine, and what compares is the ratio to the bare Jobs of the same run.
Writes to the API server do not depend on it, and are judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.resources import JOBS, PODS
from tests.benchmarks import load
from tests.benchmarks.load import (
    NAMESPACE,
    OUR_AGENTS,
    Audit,
    arrivals,
    at_once,
    cpu_seconds,
    milliseconds,
    resident_mib,
)
from tests.cluster.bed.cluster import until
from tests.cluster.bed.controlplane import ControlPlane
from tests.operator.conftest import install_crds
from tests.operator.kubelet import Kubelet, Outcome
from tests.operator.process import OperatorProcess, operator
from tests.operator.team import SFTJOBS, ready, sft_job

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(600)]

MANY = 500
TRICKLE, TRICKLE_SECONDS = 50, 0.2
COMPLETE = 20
IDLE_SECONDS = 30
OURS = ("literary-alpaca/", "kopf/")
Object = dict[str, Any]


def bare_job(name: str) -> Object:
    container = {"name": "workload", "image": "example.org/train:test"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }


@dataclass
class Bed:
    """A control plane with one node, which starts no pod."""

    plane: ControlPlane
    kube: Kube
    player: Kubelet
    audit: Audit
    update_status: list[str]

    def tell(self, line: str) -> None:
        self.update_status.append(line)


@contextlib.asynccontextmanager
async def bed(folder: Path, update_status: list[str]) -> AsyncIterator[Bed]:
    log, flags = await asyncio.to_thread(load.audited, folder, f"audit-{len(update_status)}")
    with ControlPlane.temporary(apiserver_flags=flags) as plane:
        install_crds(plane)
        kube = await Kube.connect(str(plane.kubeconfig))
        kube.user_agent = "benchmark"
        player = Kubelet(kube, NAMESPACE)
        beating = asyncio.create_task(player.beat_only())
        try:
            await player.wait_ready()
            yield Bed(plane, kube, player, Audit(log, OUR_AGENTS), update_status)
        finally:
            beating.cancel()
            await asyncio.wait([beating])
            await kube.close()


async def bare_jobs(bed: Bed) -> float:
    """What the API server and the Job controller need by themselves: seconds until every Job has its pod."""
    names = [f"bare-{number}" for number in range(MANY)]
    async with arrivals(bed.kube, PODS) as pods:
        began = time.monotonic()
        await at_once(names, lambda name: bed.kube.create(JOBS, bare_job(name)))
        took = await pods.count(MANY) - began
    bed.tell(f"{MANY} bare Jobs at once: all have their Pod after {took:.1f} s")
    return took


@dataclass
class Bench:
    """The operator's steps, in order; each leaves what the next one builds on."""

    bed: Bed
    process: OperatorProcess

    @property
    def kube(self) -> Kube:
        return self.bed.kube

    async def make(self, name: str) -> None:
        await self.kube.create(SFTJOBS, sft_job(NAMESPACE, name))

    async def burst(self, bare: float) -> None:
        names = [f"burst-{number}" for number in range(MANY)]
        async with arrivals(self.kube, JOBS) as jobs, arrivals(self.kube, PODS) as pods:
            asked = await at_once(names, self.make)
            began = min(asked.values())
            took = await jobs.count(MANY) - began
            with_pods = await pods.count(MANY) - began
            delays = [jobs.at[f"{name}-sft"] - asked[name] for name in names]
        self.bed.tell(
            f"{MANY} SFTJobs at once: all have their Job after {took:.1f} s ({milliseconds(delays)}), ratio {took / bare:.2f}"
        )
        self.bed.tell(f"    and their Pod after {with_pods:.1f} s, ratio {with_pods / bare:.2f}")

    async def trickle(self) -> None:
        async with arrivals(self.kube, JOBS) as jobs:
            asked: dict[str, float] = {}
            for number in range(TRICKLE):
                name = f"trickle-{number}"
                asked[name] = time.monotonic()
                await self.make(name)
                await asyncio.sleep(TRICKLE_SECONDS)
            await jobs.count(TRICKLE)
            delays = [jobs.at[f"{name}-sft"] - when for name, when in asked.items()]
        self.bed.tell(f"one every {TRICKLE_SECONDS} s: creation to Job {milliseconds(delays)}")

    async def settle(self) -> None:
        """Until the operator has nothing left to do."""
        before = -1.0
        while (now := self.process.metric('alpaca_reconciles_total{kind="SFTJob",outcome="done"}')) != before:
            before = now
            await asyncio.sleep(3)

    async def idle(self, count: int) -> Counter[str]:
        assert self.process.process
        pid = self.process.process.pid
        self.bed.audit.new()
        began, used = time.monotonic(), cpu_seconds(pid)
        await asyncio.sleep(IDLE_SECONDS)
        lasted, used = time.monotonic() - began, cpu_seconds(pid) - used
        writes = self.bed.audit.new()
        self.bed.tell(
            f"{count} SFTJobs idle for {lasted:.0f} s: {writes.total()} writes, {used:.2f} s CPU "
            f"({used / lasted * 120:.2f} s in 120 s), {resident_mib(pid):.0f} MiB resident"
        )
        return writes

    async def recovery(self, how: signal.Signals) -> None:
        """The operator is started again as soon as it is gone, as a kubelet does at the first time."""
        name = f"after-{how.name.lower()}"
        async with arrivals(self.kube, JOBS) as jobs:
            began = time.monotonic()
            await asyncio.to_thread(self.process.stop, how)
            await self.make(name)  # when nobody works, so that it is the successor who does
            self.process.start()
            took = await jobs.count(1) - began
        self.bed.tell(f"after {how.name}, a new SFTJob has its Job {took:.1f} s after the signal")

    async def to_complete(self) -> Counter[str]:
        """Writes of whole lives, with a kubelet that runs them."""
        names = [f"whole-{number}" for number in range(COMPLETE)]
        self.bed.player.outcomes = {name: Outcome(after=1) for name in names}
        self.bed.player.starts_others = False
        running = asyncio.create_task(self.bed.player.run())
        self.bed.audit.new()
        for name in names:
            await self.make(name)
        async with asyncio.timeout(120):
            while True:
                found = [await self.kube.get(SFTJOBS, NAMESPACE, name) for name in names]
                if all(ready(job or {}).get("reason") == "Succeeded" for job in found):
                    break
                await asyncio.sleep(0.2)
        await asyncio.sleep(1)
        running.cancel()
        return self.bed.audit.new()


async def test_operator_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    update_status: list[str] = []
    async with bed(tmp_path, update_status) as alone:
        bare = await bare_jobs(alone)
    async with bed(tmp_path, update_status) as full:
        with operator(full.plane.kubeconfig, tmp_path) as process:
            bench = Bench(full, process)
            full.audit.new()
            await bench.burst(bare)
            until_jobs = full.audit.new()
            await bench.settle()
            await bench.trickle()
            await bench.settle()
            idle = await bench.idle(MANY + TRICKLE)
            for how in (signal.SIGKILL, signal.SIGTERM):
                await bench.recovery(how)
                until(lambda: process.metric("alpaca_leading") == 1.0, "the operator to be back")
            await bench.settle()
            whole = await bench.to_complete()
    full.tell(f"API writes per SFTJob until all have their Job: {until_jobs.total() / MANY:.2f} {dict(until_jobs)}")
    full.tell(f"API writes per SFTJob from creation to Succeeded: {whole.total() / COMPLETE:.2f} {dict(whole)}")
    with capsys.disabled():
        print("\n\nThe operator\n  " + "\n  ".join(update_status))
    assert idle.total() == 0, f"with nothing to do something is written: {dict(idle)}"
    assert until_jobs["create jobs"] == MANY
    assert until_jobs.total() <= 2 * MANY
    assert whole["create jobs"] == COMPLETE, "every job is trained once"
    assert whole.total() <= 5 * COMPLETE
