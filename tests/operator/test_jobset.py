"""JobSet comes, goes and comes again while jobs of several nodes wait: they start when it is there, and say what is missing when it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from alpaca_operator.api.contract import LABEL_SCOUT
from alpaca_operator.cluster.resources import JOB_SETS, JOBS, NETWORK_POLICIES
from tests.cluster.bed import binaries
from tests.operator.process import OperatorProcess
from tests.operator.team import Team, ready

pytestmark = pytest.mark.controlplane

NODES = {"parallelism": {"nodes": 3}}


@pytest.fixture
async def definition(team: Team) -> AsyncIterator[str]:
    """The file with JobSet's CRD; what a test leaves of it is removed."""
    (folder,) = await asyncio.to_thread(binaries.ensure, ["jobset"])
    file = Path(folder, "config", "components", "crd", "bases", "jobset.x-k8s.io_jobsets.yaml")
    yield str(file)
    await kubectl(team, "delete", "--ignore-not-found", "-f", str(file))


async def kubectl(team: Team, *arguments: str) -> None:
    await asyncio.to_thread(team.plane.kubectl, *arguments)


async def installed(team: Team, file: str) -> None:
    await kubectl(team, "apply", "--server-side", "-f", file)


async def jobset(team: Team) -> dict:
    """The set of the job, once it is there."""
    async with asyncio.timeout(120):
        while (found := await team.kube.get(JOB_SETS, team.namespace, "poet-sft")) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return found


async def test_a_job_of_several_nodes_waits_for_jobset_and_survives_its_removal(
    running: OperatorProcess, team: Team, definition: str
) -> None:
    await team.apply(**NODES)
    waits = await team.state("poet", "JobSetNotInstalled")
    assert ready(waits)["message"] == (
        "the cluster has no JobSet of jobset.x-k8s.io/v1alpha2: install JobSet, which runs jobs of several nodes (kubectl apply --server-side "
        "-f https://github.com/kubernetes-sigs/jobset/releases/download/v0.12.0/manifests.yaml), or set parallelism.nodes to 1 in a job of "
        "another name; with JobSet there it starts by itself"
    )
    stalled = next(one for one in waits["status"]["conditions"] if one["type"] == "Stalled")
    assert stalled["status"] == "True"

    await installed(team, definition)
    made = await jobset(team)
    assert made["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"] == 3
    await team.state("poet", "Pending")
    assert await team.kube.get(NETWORK_POLICIES, team.namespace, "poet-sft") is not None

    await kubectl(team, "delete", "-f", definition)
    await team.state("poet", "JobSetNotInstalled")
    await installed(team, definition)
    again = await jobset(team)
    assert again["metadata"]["uid"] != made["metadata"]["uid"]
    await team.state("poet", "Pending")
    assert running.process.poll() is None


async def test_held_the_set_is_deleted_and_resumed_made_anew(
    running: OperatorProcess, team: Team, definition: str
) -> None:
    await installed(team, definition)
    await team.apply(**NODES)
    made = await jobset(team)
    await team.set(suspend=True)
    await team.state("poet", "Suspended")
    assert await team.kube.get(JOB_SETS, team.namespace, "poet-sft") is None
    await team.set(suspend=False)
    assert (await jobset(team))["metadata"]["uid"] != made["metadata"]["uid"]


async def test_what_others_do_to_a_set_is_seen(running: OperatorProcess, team: Team, definition: str) -> None:
    """A queue suspends it, and lets it go on; somebody deletes it."""
    await installed(team, definition)
    await team.apply(**NODES)
    made = await jobset(team)
    await team.kube.merge(JOB_SETS, made, {"spec": {"suspend": True}})
    held = await team.state("poet", "Queued")
    assert (
        ready(held)["message"]
        == "its JobSet poet-sft was suspended by someone else: set spec.suspend of the JobSet to false"
    )
    await team.kube.merge(JOB_SETS, made, {"spec": {"suspend": False}})
    await team.state("poet", "Pending")
    await team.kube.delete(JOB_SETS, made)
    async with asyncio.timeout(120):
        while (await jobset(team))["metadata"]["uid"] == made["metadata"]["uid"]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def started(team: Team, size: int) -> dict:
    """The set of so many nodes, once it is there, with the Job that JobSet would make of it."""
    async with asyncio.timeout(120):
        while True:
            made = await jobset(team)
            spec = made["spec"]["replicatedJobs"][0]["template"]["spec"]
            if spec["completions"] == size and "deletionTimestamp" not in made["metadata"]:
                break
            await asyncio.sleep(0.1)
    metadata = made["metadata"]
    owner = {"apiVersion": made["apiVersion"], "kind": "JobSet", "name": metadata["name"], "uid": metadata["uid"]}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{metadata['name']}-node-0",
            "namespace": team.namespace,
            "labels": metadata["labels"],
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "spec": {**spec, "suspend": False},
    }
    await team.kube.create(JOBS, job)
    return made


async def scouts(team: Team) -> list[dict]:
    return [job for job in await team.children() if LABEL_SCOUT in job["metadata"]["labels"]]


async def test_with_fewer_nodes_it_goes_on_and_grows_when_there_is_room(
    running: OperatorProcess, team: Team, definition: str
) -> None:
    await installed(team, definition)
    team.kubelet.room["cpu"] = "5"
    await team.until_the_node_has("5")
    await team.apply(
        parallelism={"nodes": 3, "minNodes": 2, "rescaleAfterSeconds": 1},
        training={"gradientAccumulation": 2},
        pod={"resources": {"requests": {"cpu": "2"}}, "terminationGracePeriodSeconds": 30},
    )
    await started(team, 3)
    await team.until("poet", lambda job: "is made anew with 2" in ready(job).get("message", ""), "too big")
    await started(team, 2)
    await team.until(
        "poet",
        lambda job: "2 of 3 nodes: waits for room for more" in ready(job).get("message", ""),
        "on its way with two",
    )
    async with asyncio.timeout(60):
        while not (found := await scouts(team)):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert [(one["metadata"]["name"], one["spec"]["parallelism"]) for one in found] == [("poet-sft-scout", 1)]
    assert not (await team.job())["status"]["nodes"].get("grown"), "there is no room for it"

    team.kubelet.room["cpu"] = "64"
    grows = await team.until(
        "poet", lambda job: "there is room for 3 nodes" in ready(job).get("message", ""), "to grow"
    )
    assert "JobSet poet-sft grows" in ready(grows)["message"]
    await started(team, 3)
    await team.until("poet", lambda job: job["status"].get("nodes", {}).get("total") == 3, "of three")
    await team.until("poet", lambda job: ready(job).get("message", "").endswith("2 more with it"), "with three")
    async with asyncio.timeout(60):
        while await scouts(team):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    job = await team.job()
    assert job["status"]["nodes"]["grown"] == 1
    assert job["status"]["restarts"]["total"] == 0
