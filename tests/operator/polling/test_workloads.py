"""What Kueue says of those who wait is read from its Workloads: for a namespace at once, and only while one waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from alpaca_operator.cluster.queue import Queue
from alpaca_operator.cluster.resources import APIResource
from alpaca_operator.cluster.store import Key
from alpaca_operator.errors import ApiError
from alpaca_operator.outcomes.observed import QueueWords
from alpaca_operator.polling.schedule import ReadBudget
from alpaca_operator.polling.workloads import LABEL_JOB, LABEL_QUEUE, InQueues, WorkloadReader
from tests.operator import build

Object = dict[str, Any]
POET, CRITIC = Key("SFTJob", "team", "poet"), Key("SFTJob", "team", "critic")
FULL = "couldn't assign flavors to pod set node: insufficient unused quota for cpu in flavor default, 300m more needed"


def child(name: str, *, suspend: bool = True, queue: str = "gpus") -> Object:
    labels = {LABEL_QUEUE: queue} if queue else {}
    return build.child("Job", f"{name}-sft", uid=f"uid-{name}", metadata={"labels": labels}, spec={"suspend": suspend})


def workload(name: str, **conditions: tuple[str, str]) -> Object:
    """``conditions``: (status, message) by type."""
    return {
        "metadata": {"name": f"job-{name}", "labels": {LABEL_JOB: f"uid-{name}"}},
        "status": {
            "conditions": [
                {"type": kind, "status": status, "message": message} for kind, (status, message) in conditions.items()
            ]
        },
    }


class Kube:
    def __init__(self, *workloads: Object, places: tuple[str, ...] = (), absent: int = 0, invisible: int = 404) -> None:
        self.workloads, self.places, self.absent, self.invisible = workloads, places, absent, invisible
        self.asked: list[str] = []

    async def list(self, api: APIResource, namespace: str, *, labels: str) -> AsyncIterator[Object]:
        self.asked.append(labels)
        if self.absent:
            raise ApiError(self.absent, "NotFound", "the server could not find the requested resource")
        for one in self.workloads:
            yield one

    async def read(self, path: str) -> Object | None:
        assert path.endswith("/namespaces/team/localqueues/gpus/pendingworkloads")
        if self.places:
            return {
                "items": [{"metadata": {"name": name}, "positionInLocalQueue": n} for n, name in enumerate(self.places)]
            }
        if self.invisible == 404:
            return None
        raise ApiError(self.invisible, "ServiceUnavailable", "Kueue is down")


def reader(kube: Kube) -> WorkloadReader:
    return WorkloadReader(Queue(), InQueues(), ReadBudget(1000, 8), kube)  # type: ignore[arg-type]


async def told(kube: Kube) -> QueueWords | None:
    found = reader(kube)
    found.lookout.look(POET, child("poet"))  # type: ignore[attr-defined]
    await found.read("team")
    return found.lookout.found(POET)


@pytest.mark.parametrize(
    ("kube", "words"),
    [
        pytest.param(Kube(workload("poet", QuotaReserved=("False", FULL))), QueueWords(why=FULL), id="no room"),
        pytest.param(
            Kube(workload("poet", QuotaReserved=("False", FULL)), places=("job-critic", "job-poet")),
            QueueWords(why=FULL, place=2),
            id="and its place",
        ),
        pytest.param(
            Kube(workload("poet", QuotaReserved=("False", FULL), Evicted=("True", "Preempted to accommodate x"))),
            QueueWords(why=FULL, evicted="Preempted to accommodate x"),
            id="it was preempted",
        ),
        pytest.param(
            Kube(workload("poet", QuotaReserved=("False", FULL)), invisible=503),
            QueueWords(why=FULL),
            id="places are not told",
        ),
        pytest.param(Kube(), QueueWords(known=False), id="Kueue has not seen it"),
        pytest.param(Kube(absent=404), None, id="there is no Kueue"),
        pytest.param(Kube(absent=403), None, id="we may not read it"),
    ],
)
async def test_what_is_told(kube: Kube, words: QueueWords | None) -> None:
    assert await told(kube) == words


async def test_one_list_for_all_and_news_wakes_once() -> None:
    kube = Kube(workload("poet", QuotaReserved=("False", FULL)), workload("critic", QuotaReserved=("False", FULL)))
    found = reader(kube)
    for key, name in ((POET, "poet"), (CRITIC, "critic")):
        found.lookout.look(key, child(name))  # type: ignore[attr-defined]
    assert await found.read("team") == 6.0
    assert len(found.queue) == 2
    assert await found.read("team") == 12.0
    assert kube.asked == [f"{LABEL_JOB} in (uid-poet,uid-critic)"] * 2
    assert len(found.queue) == 2


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(child("poet", suspend=False), id="admitted"),
        pytest.param(child("poet", queue=""), id="of no queue"),
        pytest.param(None, id="without a child"),
    ],
)
async def test_who_does_not_wait_is_let_go_of(now: Object | None) -> None:
    found = reader(Kube(workload("poet", QuotaReserved=("False", FULL))))
    found.lookout.look(POET, child("poet"))  # type: ignore[attr-defined]
    await found.read("team")
    found.lookout.look(POET, now)  # type: ignore[attr-defined]
    assert found.lookout.found(POET) is None
    assert await found.read("team") is None
