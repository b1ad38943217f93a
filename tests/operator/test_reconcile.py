"""A look at a resource does what there is to do, and nothing again that is done."""

from __future__ import annotations

from datetime import timedelta

import pytest

from alpaca_operator import reconcile as story
from alpaca_operator.cluster.queue import Result
from alpaca_operator.cluster.store import Key
from tests.operator import build
from tests.operator.test_exits import POET, a_world, ready

JOB = Key("Job", "team", "poet-sft")


async def test_a_job_is_planned_again_when_it_or_its_child_is_another_and_not_for_its_pods(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned: list[str] = []
    plan = story.PLANNERS["SFTJob"]
    monkeypatch.setitem(story.PLANNERS, "SFTJob", lambda *given: planned.append("once") or plan(*given))
    world, _, _ = a_world(None)

    async def plans() -> int:
        """How often it is planned until nothing more is written, and at the next look, at which nothing has happened."""
        before = len(planned)
        for _ in range(5):  # a status that is written makes another one of it
            await story.reconcile(POET, world)
        first = len(planned)
        await story.reconcile(POET, world)
        assert len(planned) == first, "nothing has happened"
        return first - before

    assert await plans() >= 1
    pod = build.child("Pod", "poet-sft-a", status={"phase": "Pending"})
    world.store.put(pod)
    await plans()  # the first pod is told of
    world.store.put(build.newer(pod, spec={"nodeName": "n1"}))
    assert await plans() == 0, "nothing is told of this one"
    world.store.put(build.newer(world.store.raw(JOB), spec={"suspend": True}))
    assert await plans() >= 1
    world.store.put(build.newer(world.store.raw(POET), metadata={"labels": {"team": "poets"}}))
    assert await plans() >= 1
    world.store.remove(world.store.raw(JOB))
    before = len(planned)
    await story.reconcile(POET, world)
    assert len(planned) > before, "it is made again"


async def test_of_several_nodes_that_start_one_status_is_written() -> None:
    world, kube, clock = a_world(None)
    world.store.put(build.job(spec={"parallelism": {"nodes": 2}}))
    assert await story.reconcile(POET, world) == Result(requeue_after=0.0)
    made = world.store.raw(Key("JobSet", "team", "poet-sft"))
    made["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    clock.now += timedelta(seconds=4)
    assert await story.reconcile(POET, world) == Result(requeue_after=41.0)
    assert kube.statuses == []
    clock.now += timedelta(seconds=41)
    await story.reconcile(POET, world)
    assert [ready(each) for each in kube.statuses] == [
        ("Pending", "waits for JobSet's controller to start its pods: see whether it runs")
    ]
