"""A resync puts right what a watch missed, and knows a watch that is dead."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from alpaca_operator.cluster.queue import Queue
from alpaca_operator.cluster.resources import APIResource
from alpaca_operator.cluster.resync import Resync
from alpaca_operator.cluster.store import Key, Store
from alpaca_operator.errors import Rewound
from alpaca_operator.settings import Settings
from tests.operator import build

Object = dict[str, Any]
POET = Key("SFTJob", "team", "poet")


class Cluster:
    """What exists, by kind."""

    def __init__(self, *objects: Object) -> None:
        self.objects = {(obj["kind"], obj["metadata"]["name"]): obj for obj in objects}
        self.read: list[str] = []
        self.version = ""
        """At which everything is as it is listed; empty is now."""

    async def list(self, api: APIResource, namespace: str | None, **_: Any) -> AsyncIterator[Object]:
        for (kind, _name), obj in list(self.objects.items()):
            if kind == api.kind and namespace in (None, obj["metadata"]["namespace"]):
                yield obj

    async def snapshot(self, api: APIResource, namespace: str | None, **_: Any) -> tuple[str, list[Object]]:
        return self.version or build.next_version(), [obj async for obj in self.list(api, namespace)]

    async def reread(self, obj: Object) -> Object | None:
        return self.objects.get((obj["kind"], obj["metadata"]["name"]))

    async def get(self, api: APIResource, _namespace: str, name: str) -> Object | None:
        self.read.append(name)
        return self.objects.get((api.kind, name))


def resync(cluster: Cluster, **settings: Any) -> Resync:
    return Resync(Settings(**settings), cluster, Store(), Queue[Key](), catch_up_seconds=0)  # type: ignore[arg-type]


async def test_everything_is_read_at_the_start() -> None:
    found = resync(Cluster(build.job(), build.child("Job", "poet-sft"), build.child("Pod", "poet-sft-x")))
    await found.list_all()
    resource = found.store.resource(POET)
    assert resource is not None
    assert len(found.store.children(resource)) == len(found.store.pods(resource)) == 1
    assert await found.queue.get() == POET


async def test_what_is_known_is_left_alone() -> None:
    cluster = Cluster(build.job(), build.child("Pod", "poet-sft-x"))
    found = resync(cluster)
    await found.list_all()
    found.queue.done(await found.queue.get())
    await found.check_all()
    assert (len(found.queue), cluster.read) == (0, [])


async def test_a_ghost_is_removed_and_its_resource_looked_at() -> None:
    cluster = Cluster(build.job(), build.child("Job", "poet-sft"))
    found = resync(cluster)
    await found.list_all()
    found.queue.done(await found.queue.get())
    del cluster.objects["Job", "poet-sft"]
    await found.check_all()
    resource = found.store.resource(POET)
    assert resource is not None
    assert found.store.children(resource) == []
    assert await found.queue.get() == POET


async def test_what_is_newer_than_the_list_is_no_ghost() -> None:
    cluster = Cluster(build.job())
    cluster.version = build.next_version()
    found = resync(cluster)
    await found.list_all()
    found.store.put(build.child("Job", "poet-sft"))  # the watch is ahead of the LIST
    await found.check_all()
    assert Key("Job", "team", "poet-sft") in found.store.keys("Job")


@pytest.mark.parametrize(
    ("version", "kept"),
    [
        pytest.param("a", False, id="known before the LIST and not in it"),
        pytest.param("b", True, id="written while it was made"),
    ],
)
async def test_versions_that_are_no_numbers_are_not_ordered(version: str, kept: bool) -> None:
    cluster = Cluster(build.job())
    found = resync(cluster)
    await found.list_all()
    child = build.child("Job", "poet-sft", metadata={"resourceVersion": "a"})
    found.store.put(child)
    listed = cluster.list

    async def meanwhile(api: APIResource, namespace: str | None, **more: Any) -> AsyncIterator[Object]:
        if api.kind == "Job":
            found.store.put({**child, "metadata": {**child["metadata"], "resourceVersion": version}})
        async for obj in listed(api, namespace, **more):
            yield obj

    cluster.list = meanwhile  # type: ignore[method-assign]
    await found.check_all()
    assert (Key("Job", "team", "poet-sft") in found.store.keys("Job")) is kept


async def test_what_was_missed_is_read() -> None:
    cluster = Cluster(build.job(), build.child("Job", "poet-sft"))
    found = resync(cluster)
    await found.list_all()
    found.queue.done(await found.queue.get())
    cluster.objects["Pod", "poet-sft-x"] = build.child("Pod", "poet-sft-x")
    cluster.objects["SFTJob", "poet"] = build.newer(cluster.objects["SFTJob", "poet"])
    await found.check_all()
    assert sorted(cluster.read) == ["poet", "poet-sft-x"]
    assert await found.queue.get() == POET


async def test_what_was_deleted_meanwhile_stays_so() -> None:
    cluster = Cluster(build.job(), build.child("Job", "poet-sft"))
    found = resync(cluster)
    await found.list_all()
    found.store.remove(cluster.objects["Job", "poet-sft"])  # the watch is ahead of the LIST
    await found.check_all()
    assert cluster.read == []


async def test_a_pod_whose_labels_were_taken_away_is_no_ghost() -> None:
    cluster = Cluster(build.job(), build.child("Job", "poet-sft"), pod := build.child("Pod", "poet-sft-x"))
    found = resync(cluster)
    await found.list_all()
    shown = cluster.objects.pop(("Pod", "poet-sft-x"))
    relabelled = build.newer(pod, metadata={"labels": {}}, status={"phase": "Running"})

    async def reread(obj: Object) -> Object | None:
        return relabelled if obj["metadata"]["name"] == shown["metadata"]["name"] else None

    cluster.reread = reread  # type: ignore[method-assign]
    for _ in range(2):
        await found.check_all()
    assert [one["metadata"]["name"] for _, one in found.store.running()] == ["poet-sft-x"]
    assert found.stalled == []


async def test_a_watch_that_misses_things_twice_in_a_row_is_sick() -> None:
    cluster = Cluster(build.job(), build.child("Job", "poet-sft"))
    found = resync(cluster)
    await found.list_all()
    for times in (1, 2):
        name = f"pod-{times}"
        cluster.objects["Pod", name] = build.child("Pod", name)
        await found.check_all()
    assert found.stalled == ["Pod"]
    await found.check_all()
    assert found.stalled == []


@pytest.mark.parametrize("namespaces", [(), ("team",)])
async def test_namespaces_that_are_not_served_are_not_read(namespaces: tuple[str, ...]) -> None:
    cluster = Cluster(build.job(), build.job("other", uid="uid-other", namespace="other"))
    found = resync(cluster, namespaces=namespaces)
    await found.list_all()
    assert {key.name for key in found.store.resources()} == ({"poet"} if namespaces else {"poet", "other"})


async def test_an_api_server_of_an_older_state_ends_the_process() -> None:
    """An older state never replaces a newer one: after a restore nothing that happens would be seen."""
    found = resync(Cluster(build.job()))
    await found.list_all()
    found.kube.version = "7"  # type: ignore[attr-defined]
    await found.check_all()
    with pytest.raises(Rewound, match=r"at revision 7 of sftjobs.*restored from an older state"):
        await found.check_all()
