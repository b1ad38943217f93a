"""Why a Job has no pods is read from Events: seldom, for a whole namespace at once, and only while one has none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.queue import Queue
from alpaca_operator.cluster.resources import APIResource
from alpaca_operator.cluster.store import Key
from alpaca_operator.errors import ApiError
from alpaca_operator.exits import Refused
from alpaca_operator.polling.events import EventReader, WithoutPods
from alpaca_operator.polling.schedule import ReadBudget, Schedule
from tests.operator import build

Object = dict[str, Any]
POET, CRITIC = Key("SFTJob", "team", "poet"), Key("SFTJob", "team", "critic")


def denied(why: str) -> str:
    return f'admission webhook "images.example.org" denied the request: {why}'


def event(uid: str, why: str, reason: str = "FailedCreate") -> Object:
    return {
        "metadata": {"resourceVersion": build.next_version()},
        "regarding": {"kind": "Job", "uid": uid},
        "reason": reason,
        "note": denied(why),
    }


def refused(why: str) -> Refused:
    return Refused(
        Reason.ADMISSION_REFUSED,
        f"admission policy images.example.org refuses the pod: {why}: change pod in a job of another name, or ask who set the policy",
    )


class Kube:
    def __init__(self, *events: Object) -> None:
        self.events = list(events)
        self.lists: list[tuple[str, str]] = []
        self.broken = False

    async def list(self, api: APIResource, namespace: str, *, fields: str) -> AsyncIterator[Object]:
        self.lists.append((namespace, fields))
        if self.broken:
            raise ApiError(403, "Forbidden", "no events")
        for each in self.events:
            yield each


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def reader(kube: Kube) -> tuple[EventReader, Clock]:
    clock = Clock()
    without_pods = WithoutPods(Schedule(clock))
    return EventReader(Queue(), without_pods, ReadBudget(1000, 8), kube), clock  # type: ignore[arg-type]


def job(name: str, **changes: Any) -> Object:
    return build.child("Job", f"{name}-sft", uid=f"uid-{name}", **changes)


async def test_one_list_tells_of_every_job_of_a_namespace() -> None:
    kube = Kube(event("uid-poet", "no root"), event("uid-critic", "no latest"), event("uid-of-nobody", "x"))
    found, _ = reader(kube)
    found.lookout.look(POET, job("poet"), False)
    found.lookout.look(CRITIC, job("critic"), False)
    assert await found.read("team") == 6.0
    assert kube.lists == [("team", "regarding.kind=Job,reason=FailedCreate")]
    assert found.lookout.found(POET) == refused("no root")
    assert found.lookout.found(CRITIC) == refused("no latest")
    assert {await found.queue.get(), await found.queue.get()} == {POET, CRITIC}


async def test_the_newest_event_holds_and_what_is_known_wakes_nobody() -> None:
    kube = Kube(event("uid-poet", "no root"), event("uid-poet", "no latest"))
    found, _ = reader(kube)
    found.lookout.look(POET, job("poet"), False)
    await found.read("team")
    found.queue.done(await found.queue.get())
    await found.read("team")
    assert found.lookout.found(POET) == refused("no latest")
    assert len(found.queue) == 0


async def test_it_is_read_after_three_seconds_and_ever_less_often() -> None:
    found, clock = reader(Kube())
    found.lookout.look(POET, job("poet"), False)
    assert found.lookout.schedule.pop() is None
    clock.now = 3.0
    assert found.lookout.schedule.pop() == "team"
    assert [await found.read("team") for _ in range(6)] == [6.0, 12.0, 24.0, 48.0, 60.0, 60.0]


@pytest.mark.parametrize(
    ("child", "has_pods"),
    [
        pytest.param(job("poet"), True, id="its pod is there"),
        pytest.param(None, False, id="it has no Job"),
        pytest.param(job("poet", spec={"suspend": True}), False, id="it is suspended"),
        pytest.param(job("poet", status={"active": 1}), False, id="a pod is being made"),
        pytest.param(
            job("poet", status={"conditions": [{"type": "Failed", "status": "True"}]}), False, id="it has failed"
        ),
        pytest.param(job("poet", metadata={"deletionTimestamp": "2026-01-01T00:00:09Z"}), False, id="it goes"),
    ],
)
async def test_who_waits_for_no_pod_is_let_go_of(child: Object | None, has_pods: bool) -> None:
    kube = Kube(event("uid-poet", "no root"))
    found, clock = reader(kube)
    found.lookout.look(POET, job("poet"), False)
    await found.read("team")
    found.lookout.look(POET, child, has_pods)
    clock.now = 1000.0
    assert found.lookout.found(POET) is None
    assert await found.read("team") is None
    assert found.lookout.schedule.pop() is None
    assert len(kube.lists) == 1


async def test_events_that_cannot_be_read_are_tried_again() -> None:
    kube = Kube(event("uid-poet", "no root"))
    kube.broken = True
    found, _ = reader(kube)
    found.lookout.look(POET, job("poet"), False)
    assert await found.read("team") == 6.0
    kube.broken = False
    await found.read("team")
    assert found.lookout.found(POET) == refused("no root")
