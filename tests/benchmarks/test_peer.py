"""Our operator and Kubeflow Trainer in one run: the same control plane, the same client, the same counts, in turns.

Times are printed as they are and as a ratio; nothing is judged but that every job got its child.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.resources import JOBS, APIResource
from tests.benchmarks import load, trainer_peer
from tests.benchmarks.load import NAMESPACE, OUR_AGENTS, Audit, arrivals, at_once, cpu_seconds, resident_mib
from tests.cluster.bed import pins
from tests.cluster.bed.controlplane import ControlPlane
from tests.operator.conftest import install_crds
from tests.operator.process import operator
from tests.operator.team import SFTJOBS, sft_job

pytestmark = [pytest.mark.controlplane, pytest.mark.drill, pytest.mark.timeout(3600)]

MANY = int(os.environ.get("ALPACA_DRILL_JOBS", "500"))
ROUNDS = int(os.environ.get("ALPACA_DRILL_ROUNDS", "3"))
TRICKLE, TRICKLE_SECONDS = 50, 0.2
QUIET_SECONDS = 5
"""Without a write, an operator counts as done."""
IDLE_SECONDS = 30
TRAINJOBS = APIResource("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob")


@dataclass(frozen=True)
class Contender:
    """An operator, and what it makes of which resource."""

    name: str
    resources: APIResource
    make: Callable[[str, str], dict[str, Any]]
    child: str
    """Name of the Job, from the resource's."""
    agents: tuple[str, ...]
    up: Callable[[ControlPlane, Path], contextlib.AbstractContextManager[list[int]]]
    """The operator, running and ready; gives its processes."""


@contextlib.contextmanager
def ours(plane: ControlPlane, folder: Path, **settings: object) -> Iterator[list[int]]:
    install_crds(plane)
    with operator(plane.kubeconfig, folder, **settings) as process:
        assert process.process is not None
        yield [process.process.pid]


@contextlib.contextmanager
def nobody(plane: ControlPlane, folder: Path) -> Iterator[list[int]]:
    """Our resources without our operator: what their creation costs by itself."""
    install_crds(plane)
    yield []


OURS = Contender("ours", SFTJOBS, sft_job, "{}-sft", OUR_AGENTS, ours)
PEER = Contender(
    f"Trainer {pins.TRAINER}",
    TRAINJOBS,
    trainer_peer.train_job,
    "{}-node-0",
    ("trainer/", "jobset/"),
    trainer_peer.trainer,
)

Figures = dict[str, float]


@contextlib.asynccontextmanager
async def connected(plane: ControlPlane) -> AsyncIterator[Kube]:
    kube = await Kube.connect(str(plane.kubeconfig))
    kube.user_agent = "benchmark"
    try:
        yield kube
    finally:
        await kube.close()


async def settled(audit: Audit) -> Counter[str]:
    """Waits until the operator writes nothing more; what it wrote meanwhile."""
    writes, last = Counter[str](), time.monotonic()
    while time.monotonic() - last < QUIET_SECONDS:
        await asyncio.sleep(0.5)
        if new := audit.new():
            writes, last = writes + new, time.monotonic()
    return writes


async def measured(contender: Contender, folder: Path) -> Figures:
    """A burst, a trickle, and a while in which nothing happens, on a fresh control plane."""
    log, flags = await asyncio.to_thread(load.audited, folder)
    with ControlPlane.temporary(apiserver_flags=flags) as plane, contender.up(plane, folder) as pids:
        audit = Audit(log, contender.agents)
        server = plane.processes["kube-apiserver"].pid
        async with connected(plane) as kube:
            await settled(audit)
            cpu, server_cpu = sum(map(cpu_seconds, pids)), cpu_seconds(server)
            figures = await burst(contender, kube)
            figures["writes for each job"] = (await settled(audit)).total() / MANY
            figures["CPU s of the operator for all"] = sum(map(cpu_seconds, pids)) - cpu
            figures["CPU s of the API server for all"] = cpu_seconds(server) - server_cpu
            figures |= await trickle(contender, kube)
            await settled(audit)
            cpu = sum(map(cpu_seconds, pids))
            await asyncio.sleep(IDLE_SECONDS)
            figures["writes while idle"] = audit.new().total()
            figures[f"CPU s in {IDLE_SECONDS} s idle"] = sum(map(cpu_seconds, pids)) - cpu
            figures["MiB resident"] = sum(map(resident_mib, pids))
            return figures


async def burst(contender: Contender, kube: Kube) -> Figures:
    names = [f"burst-{number}" for number in range(MANY)]
    async with arrivals(kube, JOBS) as jobs:
        asked, created = await _made(contender, kube, names)
        everything = await jobs.count(MANY, 600) - min(asked.values())
    delays = sorted(jobs.at[contender.child.format(name)] - asked[name] for name in names)
    return {
        "s to create all": created,
        "s until all have their Job": everything,
        "s to the Job, p50": statistics.median(delays),
    }


async def trickle(contender: Contender, kube: Kube) -> Figures:
    async with arrivals(kube, JOBS) as jobs:
        asked: dict[str, float] = {}
        for number in range(TRICKLE):
            name = f"trickle-{number}"
            asked[name] = time.monotonic()
            await kube.create(contender.resources, contender.make(NAMESPACE, name))
            await asyncio.sleep(TRICKLE_SECONDS)
        await jobs.count(TRICKLE)
    delays = [jobs.at[contender.child.format(name)] - when for name, when in asked.items()]
    cuts = statistics.quantiles(delays, n=100)
    return {"ms to the Job, one at a time, p50": cuts[49] * 1000, "ms, one at a time, p99": cuts[98] * 1000}


async def created_alone(folder: Path) -> float:
    """Seconds to create all with no operator at work."""
    alone = Contender("", SFTJOBS, sft_job, "", (), nobody)
    with ControlPlane.temporary() as plane, alone.up(plane, folder):
        async with connected(plane) as kube:
            _, seconds = await _made(alone, kube, [f"alone-{number}" for number in range(MANY)])
            return seconds


async def _made(contender: Contender, kube: Kube, names: list[str]) -> tuple[dict[str, float], float]:
    """When each was asked for, and how long all of them took to create."""
    began = time.monotonic()
    asked = await at_once(names, lambda name: kube.create(contender.resources, contender.make(NAMESPACE, name)))
    return asked, time.monotonic() - began


async def test_beside_the_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs: dict[str, list[Figures]] = {OURS.name: [], PEER.name: []}
    alone: list[float] = []
    for turn in range(ROUNDS):  # in turns, so that a busy minute of the machine does not hit one of them alone
        for contender in (OURS, PEER):
            folder = tmp_path / f"{turn}-{contender.agents[0].rstrip('/')}"
            folder.mkdir()
            figures = await measured(contender, folder)
            runs[contender.name].append(figures)
            with capsys.disabled():
                print(
                    f"\n{contender.name}, turn {turn + 1}: {', '.join(f'{key} {value:.3g}' for key, value in figures.items())}"
                )
        alone.append(await created_alone(tmp_path))
    with capsys.disabled():
        print("\n\n" + table(f"{MANY} jobs", runs))
        print(f"our {MANY} created with no operator at work: {statistics.median(alone):.1f} s")
    assert all(run["writes while idle"] == 0 for run in runs[OURS.name])


def table(what: str, runs: dict[str, list[Figures]]) -> str:
    """Medians and their ratio."""
    (first, ours), (second, theirs) = runs.items()
    when = time.strftime("%Y-%m-%d")
    lines = [
        f"{when}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end, Kubernetes {pins.KUBERNETES}, JobSet {pins.JOBSET}; "
        f"{what}, medians of {len(ours)}",
        "",
        f"| | {first} | {second} | ratio |",
        "|---|---|---|---|",
    ]
    for name in ours[0]:
        left, right = (statistics.median(run[name] for run in each) for each in (ours, theirs))
        lines.append(f"| {name} | {left:.3g} | {right:.3g} | {f'{left / right:.2f}' if right else '–'} |")
    return "\n".join(lines)
