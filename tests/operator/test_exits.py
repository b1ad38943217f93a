"""No answer of the API server leaves a resource without a word: each becomes a status, an Event and a time to look again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from alpaca_operator.api import KINDS
from alpaca_operator.cluster.kube import APIResource
from alpaca_operator.cluster.queue import LONGEST_DELAY, Result
from alpaca_operator.cluster.store import Key
from alpaca_operator.errors import ApiError, Unreachable
from alpaca_operator.reconcile import reconcile, reconcile_or_report
from alpaca_operator.settings import Settings
from alpaca_operator.world import World
from tests.operator import build

Object = dict[str, Any]
POET = Key("SFTJob", "team", "poet")
SETTINGS = Settings(images=dict.fromkeys(KINDS, "example.org/train:test"))
START = datetime(2026, 1, 1, tzinfo=UTC)


class Kube:
    """An API server that answers to a new Job with an error, and takes every status."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.statuses: list[Object] = []
        self.events: list[Object] = []

    async def create(self, api: APIResource, body: Object, *, warnings: list[str] | None = None) -> Object:
        if api.kind == "Event":
            self.events.append(body)
            return body
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is not None:
            raise answer
        metadata = {**body["metadata"], "uid": "uid-job", "resourceVersion": build.next_version()}
        return {**body, "metadata": metadata, "status": {}}

    async def put_status(self, api: APIResource, current: Object, status: Object) -> Object:
        self.statuses.append(status)
        return build.newer(current, status=status)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def a_world(*answers: Exception | None) -> tuple[World, Kube, Clock]:
    kube, clock = Kube(*answers), Clock()
    world = World(SETTINGS, kube, now=clock)  # type: ignore[arg-type]
    world.store.put(build.job())
    return world, kube, clock


async def after_a_while(world: World, clock: Clock) -> Result:
    """Tried again and again for as long as an API server takes to be restarted."""
    await reconcile(POET, world)
    clock.now += timedelta(seconds=11)
    return await reconcile(POET, world)


def true(status: Object) -> set[str]:
    return {each["type"] for each in status["conditions"] if each["status"] == "True"}


def ready(status: Object) -> tuple[str, str]:
    found = next(each for each in status["conditions"] if each["type"] == "Ready")
    return found["reason"], found["message"]


REFUSED = [
    pytest.param(
        ApiError(400, "BadRequest", "json: cannot unmarshal string into Go struct field"),
        "InvalidSpec",
        "the API server does not understand its child (json: cannot unmarshal string into Go struct field): correct pod in a job of "
        "another name",
        id="400",
    ),
    pytest.param(
        ApiError(404, "NotFound", "the server could not find the requested resource"),
        "AdmissionRefused",
        "the API server does not take its child (404 NotFound: the server could not find the requested resource): make what it asks "
        "for, or change pod in a job of another name",
        id="404",
    ),
    pytest.param(
        ApiError(413, "RequestEntityTooLarge", "limit is 3145728"),
        "AdmissionRefused",
        "the API server does not take its child (413 RequestEntityTooLarge: limit is 3145728): make what it asks for, or change pod "
        "in a job of another name",
        id="413",
    ),
    pytest.param(
        ApiError(422, "Invalid", "spec.template: Invalid value"),
        "InvalidSpec",
        "the API server refuses the pod: spec.template: Invalid value: correct pod in a job of another name",
        id="422",
    ),
    pytest.param(
        ApiError(
            500,
            "",
            "failed to create typed patch object (a/b; apps/v1, Kind=Deployment): .spec.typo: field not declared in schema",
        ),
        "InvalidSpec",
        "the API server does not understand its child (failed to create typed patch object (a/b; apps/v1, Kind=Deployment): .spec.typo: "
        "field not declared in schema): correct pod in a job of another name",
        id="a field that no apply knows, which is answered as an error of the server",
    ),
]


@pytest.mark.parametrize(("answer", "reason", "message"), REFUSED)
async def test_what_only_a_person_can_mend_is_stalled_at_once(answer: Exception, reason: str, message: str) -> None:
    world, kube, _ = a_world(answer)
    result = await reconcile(POET, world)
    assert result == Result(LONGEST_DELAY, failed=True, outcome="refused")
    assert true(kube.statuses[0]) == {"Stalled"}
    assert ready(kube.statuses[0]) == (reason, message)
    assert [(event["type"], event["reason"]) for event in kube.events] == [("Warning", reason)]


async def test_a_quota_is_waited_for() -> None:
    world, kube, _ = a_world(ApiError(403, "Forbidden", "exceeded quota: small, requested: count/jobs=1"))
    assert await reconcile(POET, world) == Result(60.0, failed=True, outcome="refused")
    assert true(kube.statuses[0]) == {"Reconciling"}
    assert ready(kube.statuses[0])[0] == "QuotaExceeded"


UNAVAILABLE = [
    pytest.param(
        Unreachable("POST /apis/batch/v1: Connection reset by peer"),
        0.0,
        "the API server does not answer (POST /apis/batch/v1: Connection reset by peer): tried again by itself",
        id="no answer",
    ),
    pytest.param(
        ApiError(429, "TooManyRequests", "please try again later", retry_after=7.0),
        7.0,
        "the API server cannot take its child now (429 TooManyRequests: please try again later): tried again by itself",
        id="429 with Retry-After",
    ),
    pytest.param(
        ApiError(500, "InternalError", 'Internal error occurred: failed calling webhook "images.example.org": refused'),
        0.0,
        "admission webhook images.example.org does not answer the API server: ask who keeps it; tried again by itself",
        id="a webhook that is down",
    ),
    pytest.param(
        ApiError(503, "ServiceUnavailable", "etcdserver: leader changed"),
        0.0,
        "the API server cannot take its child now (503 ServiceUnavailable: etcdserver: leader changed): tried again by itself",
        id="503",
    ),
]


@pytest.mark.parametrize(("answer", "retry_after", "message"), UNAVAILABLE)
async def test_an_api_server_that_is_not_available_is_told_once_it_lasts(
    answer: Exception, retry_after: float, message: str
) -> None:
    world, kube, clock = a_world(answer)
    result = await reconcile(POET, world)
    assert result == Result(60.0, failed=True, not_before=retry_after, outcome="unreachable")
    assert kube.statuses == [], "a moment is not worth a word"
    assert await after_a_while(world, clock) == result
    assert true(kube.statuses[0]) == {"Reconciling"}
    assert ready(kube.statuses[0]) == ("Pending", f"waits for its pod to start; {message}")
    assert [(event["type"], event["reason"], event["note"]) for event in kube.events] == [
        ("Warning", "Pending", message)
    ]


async def test_an_outage_is_one_write_however_often_it_is_tried_and_whatever_is_answered() -> None:
    answers = (ApiError(503, "ServiceUnavailable", f"try {number}") for number in range(9))
    world, kube, clock = a_world(*answers)
    for _ in range(8):
        await after_a_while(world, clock)
    assert (len(kube.statuses), len(kube.events)) == (1, 1)
    assert "try 0" in ready(kube.statuses[0])[1]


async def test_when_it_is_over_the_job_is_made_and_nothing_of_it_is_left_in_the_status() -> None:
    gone = ApiError(503, "ServiceUnavailable", "gone")
    world, kube, clock = a_world(gone, gone, None)
    await after_a_while(world, clock)
    assert await reconcile(POET, world) == Result(requeue_after=0.0)
    await reconcile(POET, world)
    assert ready(kube.statuses[-1]) == ("Pending", "waits for its pod to start")


async def test_a_write_that_crossed_another_is_no_exit() -> None:
    world, kube, _ = a_world(ApiError(409, "Conflict", "the object has been modified"))
    with pytest.raises(ApiError, match="409 Conflict"):
        await reconcile(POET, world)
    assert kube.statuses == []


class TestWhatIsNewerThanTheOperator:
    """The CRDs were upgraded first: a field is there that this operator does not know."""

    MESSAGE = "SFTJob team/poet is newer than this operator, which must be upgraded to read it: spec.quantum: Extra inputs are not permitted"

    async def look(self, **status: Any) -> tuple[Kube, Result]:
        kube = Kube(None)
        world = World(SETTINGS, kube, now=Clock())  # type: ignore[arg-type]
        world.store.put(build.job(spec={"quantum": True}, status=status))
        result = await reconcile_or_report(POET, world)
        await reconcile_or_report(POET, world)
        return kube, result

    async def test_is_stalled_and_told_once(self) -> None:
        kube, result = await self.look()
        assert result == Result(LONGEST_DELAY, failed=True, outcome="unreadable")
        assert [true(status) for status in kube.statuses] == [{"Stalled"}]
        assert ready(kube.statuses[0]) == ("InvalidSpec", self.MESSAGE)
        assert [(event["reason"], event["note"]) for event in kube.events] == [("InvalidSpec", self.MESSAGE)]

    async def test_keeps_its_end(self) -> None:
        complete = {
            "type": "Complete",
            "status": "True",
            "reason": "Succeeded",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        kube, _ = await self.look(conditions=[complete])
        assert kube.statuses == []
