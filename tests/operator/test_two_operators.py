"""Two operators that see the same resources: one works, the other says whose they are and writes nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.resources import DEPLOYMENTS, EVENTS, RESOURCES
from tests.cluster.bed.controlplane import ControlPlane
from tests.operator.process import OperatorProcess, operator
from tests.operator.team import Object, Team

pytestmark = pytest.mark.controlplane

CHATS = RESOURCES["ChatDeployment"]
FIRST, SECOND = "installed/literary-alpaca", "default/literary-alpaca"


@pytest.mark.parametrize(
    "for_one_namespace",
    [
        pytest.param(False, id="one on a laptop beside an installation"),
        pytest.param(True, id="one for a namespace beside one for the cluster"),
    ],
)
async def test_the_second_refuses_with_both_names_until_the_first_has_gone(
    plane: ControlPlane, team: Team, tmp_path: Path, for_one_namespace: bool
) -> None:
    quick = {"lease_seconds": 3, "renew_seconds": 1, "progress_via": "Pod"}
    scope = {"namespaces": team.namespace} if for_one_namespace else {}
    with plane.namespace("installed"):
        with operator(plane.kubeconfig, tmp_path, "first", operator_namespace="installed", **quick):
            await team.apply()
            await team.kube.create(CHATS, chat(team.namespace))
            for kind in ("SFTJob", "ChatDeployment"):
                await taken_up(team, kind, FIRST)
            before = await deployment(team)
            with operator(
                plane.kubeconfig, tmp_path, "second", image_page="example.org/other:1", **quick, **scope
            ) as second:
                notes = await told(team, 2)
                assert {kind for kind, _ in notes} == {"SFTJob", "ChatDeployment"}
                for _, note in notes:
                    assert note.startswith(
                        f"operator first (Lease {FIRST}) works on it, and operator second (Lease {SECOND}) leaves it alone: stop one"
                    )
                found = await team.kube.get(CHATS, team.namespace, "poet")
                await team.kube.merge(CHATS, found, {"spec": {"replicas": 2}})
                await scaled(team, 2)
                assert writes(second) <= {"events", "leases"}
                assert image(await deployment(team)) == image(before)
        with operator(plane.kubeconfig, tmp_path, "second", image_page="example.org/other:1", **quick, **scope):
            for kind in ("SFTJob", "ChatDeployment"):
                await taken_up(team, kind, SECOND)
            async with asyncio.timeout(60):
                while image(await deployment(team)) != "example.org/other:1":  # noqa: ASYNC110
                    await asyncio.sleep(0.1)


def chat(namespace: str) -> Object:
    return {
        "apiVersion": CHATS.api_version,
        "kind": CHATS.kind,
        "metadata": {"name": "poet", "namespace": namespace},
        "spec": {"model": {"uri": "s3://models/poet"}},
    }


async def taken_up(team: Team, kind: str, lease: str) -> None:
    async with asyncio.timeout(120):
        while (await found(team.kube, kind, team.namespace))["status"].get("operator") != lease:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def found(kube: Kube, kind: str, namespace: str) -> Object:
    resource = await kube.get(RESOURCES[kind], namespace, "poet")
    assert resource is not None
    return resource


async def deployment(team: Team) -> Object:
    """Once it is made: the status that names the operator comes before it."""
    async with asyncio.timeout(60):
        while (made := await team.kube.get(DEPLOYMENTS, team.namespace, "poet-chat")) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return made


async def scaled(team: Team, replicas: int) -> None:
    async with asyncio.timeout(60):
        while (await deployment(team))["spec"]["replicas"] != replicas:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def image(made: Object) -> str:
    """Of the page: the one that both operators give."""
    return next(one["image"] for one in made["spec"]["template"]["spec"]["containers"] if one["name"] == "ui")


async def told(team: Team, at_least: int) -> list[tuple[str, str]]:
    """Kind and note of the Events of an operator that leaves something to another."""
    async with asyncio.timeout(60):
        while True:
            events = [event async for event in team.kube.list(EVENTS, team.namespace)]
            notes = [(one["regarding"]["kind"], one["note"]) for one in events if one["reason"] == "AnotherOperator"]
            if len(notes) >= at_least:
                return notes
            await asyncio.sleep(0.1)


def writes(process: OperatorProcess) -> set[str]:
    """What it has written to."""
    lines = [line for line in process.metrics() if line.startswith("alpaca_api_writes_total{")]
    return {line.partition('resource="')[2].partition('"')[0] for line in lines}
