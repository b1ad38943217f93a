"""Jobs of many nodes, ours and Kubeflow Trainer's, in one run: both make JobSets, with JobSet's own controller beside them, on nodes that kwok
plays: pods start and run.

Times are printed as they are and as a ratio; nothing is judged but that every job got its pods.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.cluster.resources import JOB_SETS, PODS
from tests.benchmarks import kwok, load, test_peer, trainer_peer
from tests.benchmarks.load import NAMESPACE, OUR_AGENTS, Audit, arrivals, at_once, cpu_seconds
from tests.benchmarks.test_peer import TRAINJOBS, Contender, Figures, connected, settled, table
from tests.cluster.bed import pins
from tests.cluster.bed.controlplane import ControlPlane
from tests.operator.team import SFTJOBS, sft_job

pytestmark = [pytest.mark.controlplane, pytest.mark.drill, pytest.mark.timeout(3600)]

SETS = int(os.environ.get("ALPACA_DRILL_SETS", "200"))
NODES = 8
ROUNDS = int(os.environ.get("ALPACA_DRILL_ROUNDS", "3"))


def ours_of_nodes(namespace: str, name: str) -> dict[str, Any]:
    return sft_job(namespace, name, parallelism={"nodes": NODES})


def theirs_of_nodes(namespace: str, name: str) -> dict[str, Any]:
    job = trainer_peer.train_job(namespace, name)
    return {**job, "spec": {**job["spec"], "trainer": {"numNodes": NODES}}}


@contextlib.contextmanager
def with_jobset(plane: ControlPlane, folder: Path) -> Iterator[list[int]]:
    # As in a cluster, pods are asked themselves how far they are.
    with trainer_peer.jobset(plane, folder) as sets, test_peer.ours(plane, folder, progress_via="Pod") as operator:
        yield [*operator, *sets]


AGENTS = ("jobset/",)
OURS = Contender("ours", SFTJOBS, ours_of_nodes, "", (*OUR_AGENTS, *AGENTS), with_jobset)
PEER = Contender(f"Trainer {pins.TRAINER}", TRAINJOBS, theirs_of_nodes, "", ("trainer/", *AGENTS), trainer_peer.trainer)


async def measured(contender: Contender, folder: Path) -> tuple[Counter[str], Figures]:
    """What was written, all at once, on a fresh control plane."""
    log, flags = await asyncio.to_thread(load.audited, folder)
    with (
        ControlPlane.temporary(apiserver_flags=flags) as plane,
        kwok.nodes(plane, folder),
        contender.up(plane, folder) as pids,
    ):
        audit = Audit(log, contender.agents)
        server = plane.processes["kube-apiserver"].pid
        async with connected(plane) as kube:
            await settled(audit)
            cpu, server_cpu = sum(map(cpu_seconds, pids)), cpu_seconds(server)
            async with arrivals(kube, PODS) as pods, arrivals(kube, JOB_SETS) as sets:
                names = [f"set-{number}" for number in range(SETS)]
                asked = await at_once(
                    names, lambda name: kube.create(contender.resources, contender.make(NAMESPACE, name))
                )
                last = await pods.count(SETS * NODES, 1800)
                sets_there = await sets.count(SETS)
            began = min(asked.values())
            complete = sorted(_last_pod(pods.at, name) - asked[name] for name in names)
            writes = await settled(audit)
            return writes, {
                "s until all have their JobSet": sets_there - began,
                "s until all have all their pods": last - began,
                "s to a job's last pod, p50": statistics.median(complete),
                "writes for each job, JobSet's with them": writes.total() / SETS,
                "CPU s of operator and JobSet": sum(map(cpu_seconds, pids)) - cpu,
                "CPU s of the API server": cpu_seconds(server) - server_cpu,
            }


def _last_pod(at: dict[str, float], name: str) -> float:
    """Pods are named by their set: `<name>-…-node-0-<n>-xxxxx`."""
    found = [when for pod, when in at.items() if pod.startswith(f"{name}-")]
    assert len(found) == NODES, f"{name} has {len(found)} pods"
    return max(found)


async def test_many_sets_beside_the_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs: dict[str, list[Figures]] = {OURS.name: [], PEER.name: []}
    for turn in range(ROUNDS):  # in turns, so that a busy minute of the machine does not hit one of them alone
        for number, contender in enumerate((OURS, PEER)):
            folder = tmp_path / f"{turn}-{number}"
            folder.mkdir()
            writes, figures = await measured(contender, folder)
            runs[contender.name].append(figures)
            with capsys.disabled():
                kinds = ", ".join(f"{kind} {count / SETS:.2f}" for kind, count in writes.most_common())
                print(f"\n{contender.name}, turn {turn + 1}, wrote for each job: {kinds}")
                print(
                    f"\n{contender.name}, turn {turn + 1}: {', '.join(f'{key} {value:.3g}' for key, value in figures.items())}"
                )
    with capsys.disabled():
        print("\n\n" + table(f"{SETS} jobs of {NODES} nodes", runs))
