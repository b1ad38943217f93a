"""No answer of the API server leaves a resource without a word: each becomes a status, an Event and a time to look again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal

import pytest

from alpaca_operator.api import KINDS
from alpaca_operator.api.contract import CONTAINER, Published, Termination
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.queue import LONGEST_DELAY, Result
from alpaca_operator.cluster.resources import APIResource
from alpaca_operator.cluster.store import Key, Store
from alpaca_operator.errors import ApiError, Unreachable
from alpaca_operator.reconcile import _work_on, reconcile, reconcile_or_report
from alpaca_operator.settings import Settings
from alpaca_operator.world import World
from tests.operator import build

Object = dict[str, Any]
POET = Key("SFTJob", "team", "poet")
SETTINGS = Settings(images=dict.fromkeys(KINDS, "example.org/train:test"))
START = datetime(2026, 1, 1, tzinfo=UTC)


COMPLETE = {
    "type": "Complete",
    "status": "True",
    "reason": "Succeeded",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


class Kube:
    """An API server that answers to a new Job with an error, and takes every status, or answers to it with another."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.status_answers: list[Exception | None] = [None]
        self.list_answer: Exception | None = None
        self.statuses: list[Object] = []
        self.live: Object | Literal["as known"] | None = "as known"
        """What a GET gives."""
        self.store: Store | None = None
        self.more: dict[str, list[Object]] = {}
        """What a LIST shows besides what is known."""
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

    async def get(self, api: APIResource, namespace: str, name: str) -> Object | None:
        assert self.store is not None
        return self.store.raw(Key(api.kind, namespace, name)) if self.live == "as known" else self.live

    async def list(self, api: APIResource, namespace: str, **_: Any) -> AsyncIterator[Object]:
        if self.list_answer is not None:
            raise self.list_answer
        assert self.store is not None
        for obj in [*(self.store.raw(key) for key in self.store.keys(api.kind)), *self.more.get(api.kind, ())]:
            yield obj

    async def put_status(self, api: APIResource, current: Object, status: Object) -> Object:
        answer = self.status_answers.pop(0) if len(self.status_answers) > 1 else self.status_answers[0]
        if answer is not None:
            raise answer
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
    kube.store = world.store
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
        "NotAccepted",
        "the API server does not take its child (404 NotFound: the server could not find the requested resource): make what it asks "
        "for, or change pod in a job of another name",
        id="404",
    ),
    pytest.param(
        ApiError(413, "RequestEntityTooLarge", "limit is 3145728"),
        "NotAccepted",
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
    assert await reconcile(POET, world) == Result(60.0, failed=True, not_before=10.0, outcome="refused")
    assert true(kube.statuses[0]) == {"Reconciling"}
    assert ready(kube.statuses[0])[0] == "QuotaExceeded"


async def test_in_a_namespace_that_goes_nothing_is_made_again_and_again() -> None:
    """Its children go one by one, each a reason to look again."""
    forbidden = 'jobs.batch "poet-sft" is forbidden: unable to create new content in namespace team because it is being terminated'
    world, kube, _ = a_world(ApiError(403, "Forbidden", forbidden))
    assert await reconcile(POET, world) == Result.never
    assert ready(kube.statuses[0]) == (
        "Stopping",
        "namespace team is being deleted, and nothing is made in it any more; where it stays, kubectl get namespace team -o yaml shows "
        "what holds it",
    )
    kube.answers = [AssertionError("it was made once more")]
    assert await reconcile(POET, world) == Result.never
    assert len(kube.statuses) == 1


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
    assert ready(kube.statuses[0]) == ("APIServerUnavailable", f"waits for its pod to start; {message}")
    assert [(event["type"], event["reason"], event["note"]) for event in kube.events] == [
        ("Warning", "APIServerUnavailable", message)
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


class TestTheStatusItself:
    """It is not taken."""

    REFUSAL = ApiError(422, "Invalid", "status.progress.step: Invalid value: 1e+30")
    WORDS = "the API server does not take all of the status (422 Invalid: status.progress.step: Invalid value: 1e+30)"
    DONE: ClassVar = {
        "startTime": "2026-01-01T00:00:00Z",
        "progress": {"step": 3},
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "Running",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }

    def world(self, *answers: Exception | None) -> tuple[World, Kube, Clock]:
        """A job whose pod has ended well, and what the API server answers to its status."""
        world, kube, clock = a_world(None)
        kube.status_answers = list(answers)
        world.store.put(build.newer(build.job(), status=self.DONE))
        world.store.put(build.child("Job", "poet-sft"))
        word = Termination(
            reason=Reason.SUCCEEDED, step=7, output=Published(uri="pvc://models/poet", digest="sha256:ab")
        )
        done = {"name": "workload", "state": {"terminated": {"exitCode": 0, "message": word.to_json()}}}
        world.store.put(build.child("Pod", "poet-sft-x", status={"phase": "Succeeded", "containerStatuses": [done]}))
        return world, kube, clock

    async def test_without_what_is_refused_the_end_is_told_all_the_same(self) -> None:
        world, kube, _ = self.world(self.REFUSAL, None)
        assert await reconcile(POET, world) == Result(LONGEST_DELAY, failed=True, outcome="refused")
        [written] = kube.statuses
        assert true(written) >= {"Ready", "Complete"}
        assert ready(written) == ("Succeeded", f"published pvc://models/poet; {self.WORDS}")
        assert written["output"]["digest"] == "sha256:ab"
        assert written["progress"] == {"step": 3}, "what stood there stands"
        assert [event["reason"] for event in kube.events] == ["Succeeded"]
        assert await reconcile(POET, world) == Result.never
        assert len(kube.statuses) == 1, "it has ended"

    async def test_where_not_even_that_is_taken_an_event_tells_once(self) -> None:
        world, kube, _ = self.world(self.REFUSAL)
        for _ in range(2):
            assert await reconcile(POET, world) == Result(LONGEST_DELAY, failed=True, outcome="refused")
        assert kube.statuses == []
        assert {
            (event["metadata"]["name"], event["type"], event["reason"], event["note"]) for event in kube.events
        } == {(kube.events[0]["metadata"]["name"], "Warning", "NotAccepted", self.WORDS)}

    @pytest.mark.parametrize(("answer", "retry_after", "_message"), UNAVAILABLE)
    async def test_an_outage_is_an_event_once_it_lasts_and_the_status_follows_when_it_is_over(
        self, answer: Exception, retry_after: float, _message: str
    ) -> None:
        world, kube, clock = self.world(answer, answer, None)
        later = Result(60.0, failed=True, not_before=retry_after, outcome="unreachable")
        assert await reconcile(POET, world) == later
        assert kube.events == []
        clock.now += timedelta(seconds=11)
        assert await reconcile(POET, world) == later
        assert [event["reason"] for event in kube.events] == ["APIServerUnavailable"]
        await reconcile(POET, world)
        assert true(kube.statuses[0]) >= {"Ready", "Complete"}

    async def test_of_what_is_gone_nothing_is_left_to_tell(self) -> None:
        world, kube, _ = self.world(ApiError(404, "NotFound", "sftjobs poet not found"))
        kube.live = None
        assert await reconcile(POET, world) == Result.never
        assert world.store.raw(POET) is None
        assert kube.events == []

    async def test_a_write_that_crossed_another_is_tried_again_at_once(self) -> None:
        world, _, _ = self.world(ApiError(409, "Conflict", "the object has been modified"))
        with pytest.raises(ApiError, match="409 Conflict"):
            await reconcile(POET, world)

    async def test_a_last_look_that_is_refused_is_told(self) -> None:
        world, kube, _ = self.world(None)
        kube.list_answer = ApiError(403, "Forbidden", 'pods is forbidden: User "alpaca" cannot list resource "pods"')
        assert await reconcile(POET, world) == Result(LONGEST_DELAY, failed=True, outcome="refused")
        assert true(kube.statuses[0]) == {"Stalled"}
        assert ready(kube.statuses[0]) == (
            "AdmissionRefused",
            'the operator has no right to list it (pods is forbidden: User "alpaca" cannot list resource "pods"): apply manifests/rbac',
        )


async def test_what_is_answered_before_anything_can_be_said_is_an_event_once_it_lasts() -> None:
    world, kube, clock = a_world(None)

    async def other(_: Object) -> None:
        raise ApiError(503, "ServiceUnavailable", "etcdserver: leader changed")

    world.claims.other = other  # type: ignore[method-assign, assignment]
    await _work_on(POET, world)
    assert kube.events == []
    clock.now += timedelta(seconds=11)
    await _work_on(POET, world)
    assert [(event["reason"], event["note"]) for event in kube.events] == [
        (
            "APIServerUnavailable",
            "the API server cannot take the status now (503 ServiceUnavailable: etcdserver: leader changed): tried again by itself",
        )
    ]


async def test_a_pod_that_a_child_has_left_while_nobody_looked_is_waited_for() -> None:
    world, kube, _ = a_world(None)
    world.store.put(build.newer(build.job(status={"startTime": "2026-01-01T00:00:00Z"})))
    kube.more["Pod"] = [build.child("Pod", "poet-sft-x", status={"phase": "Running"})]
    assert await reconcile(POET, world) == Result(60.0, failed=True, outcome="refused")
    assert ready(kube.statuses[0]) == ("Stopping", "waits for pod poet-sft-x to stop, whose Job is gone")
    assert world.child(world.resource(POET)) is None
    world.store.remove(kube.more.pop("Pod")[0])
    await reconcile(POET, world)
    assert world.child(world.resource(POET)) is not None


@pytest.mark.parametrize(("suspended", "counted"), [(True, 0), (False, 1)])
async def test_whether_the_end_of_a_pod_counts_is_asked_of_its_job_as_it_is_now(suspended: bool, counted: int) -> None:
    """Watches of Jobs and pods are two: the pod that a queue evicted may be seen to end before its Job is seen to be suspended."""
    world, kube, _ = a_world(None)
    world.store.put(build.newer(build.job(status={"startTime": "2026-01-01T00:00:00Z"})))
    running = build.child("Job", "poet-sft", spec={"backoffLimit": 3}, status={"startTime": "2026-01-01T00:00:00Z"})
    ended = {"terminated": {"exitCode": 75, "finishedAt": "2026-01-01T00:10:05Z"}}
    pod = build.child(
        "Pod",
        "poet-sft-x",
        metadata={"deletionTimestamp": "2026-01-01T00:10:30Z", "deletionGracePeriodSeconds": 30},
        spec={"containers": [{"name": CONTAINER}]},
        status={"phase": "Failed", "containerStatuses": [{"name": CONTAINER, "state": ended}]},
    )
    world.store.put(running)
    world.store.put(pod)
    kube.more["Job"] = [build.newer(running, spec={"backoffLimit": 3, "suspend": suspended})]
    await reconcile(POET, world)
    assert len(kube.statuses[-1].get("attempts", [])) == counted
    assert kube.statuses[-1].get("restarts", {}).get("infra", 0) == counted


async def test_a_predecessors_child_is_waited_for_and_the_job_says_so() -> None:
    world, kube, _ = a_world(ApiError(409, "AlreadyExists", 'jobs.batch "poet-sft" already exists'))
    kube.live = build.child("Job", "poet-sft", of="uid-of-an-earlier-one")
    assert await reconcile(POET, world) == Result(60.0, failed=True, outcome="refused")
    assert true(kube.statuses[0]) == {"Reconciling"}
    assert ready(kube.statuses[0]) == (
        "Stopping",
        "waits for Job poet-sft to go, which belongs to a deleted SFTJob poet: kubectl get job poet-sft -o yaml shows what holds it",
    )


NOVEL = {"template": "Novel"}


class TestWhatTheModelRefuses:
    """And the CRD took: the CRDs were upgraded first, or say less than the models."""

    @pytest.mark.parametrize(
        ("spec", "reason", "words"),
        [
            pytest.param(NOVEL, "OperatorOutdated", "): upgrade the operator", id="a word of a newer version"),
            pytest.param(
                {"pod": {"shmSize": "1GB"}},
                "InvalidSpec",
                "): correct it; or, where its CRD is newer than this operator, upgrade the operator",
                id="a value that an older one took",
            ),
        ],
    )
    async def test_is_stalled_and_told_once(self, spec: Object, reason: str, words: str) -> None:
        kube = Kube(None)
        world = World(SETTINGS, kube, now=Clock())  # type: ignore[arg-type]
        world.store.put(build.job(spec=spec))
        for _ in range(2):
            assert await reconcile_or_report(POET, world) == Result(LONGEST_DELAY, failed=True, outcome="unreadable")
        assert [true(status) for status in kube.statuses] == [{"Stalled"}]
        found, message = ready(kube.statuses[0])
        assert found == reason
        assert message.endswith(words)
        assert f"spec.{next(iter(spec))}" in message
        assert [event["reason"] for event in kube.events] == [reason]

    async def test_keeps_its_end(self) -> None:
        kube = Kube(None)
        world = World(SETTINGS, kube, now=Clock())  # type: ignore[arg-type]
        world.store.put(build.job(spec=NOVEL, status={"conditions": [COMPLETE]}))
        await reconcile_or_report(POET, world)
        assert kube.statuses == []

    async def test_is_waited_for_by_those_who_read_what_it_makes(self) -> None:
        kube = Kube(None)
        world = World(SETTINGS, kube, now=Clock())  # type: ignore[arg-type]
        world.store.put(build.job("base", uid="uid-base", spec=NOVEL))
        world.store.put(build.job(spec={"model": {"from": {"kind": "SFTJob", "name": "base"}}}))
        await reconcile_or_report(POET, world)
        assert true(kube.statuses[0]) == {"Reconciling"}
        assert ready(kube.statuses[0]) == (
            "NotReady",
            "waits for SFTJob base (model.from), which cannot be read: its own status says why",
        )


class TestWhatIsNewerThanTheOperator:
    """The CRDs were upgraded first: a field is there that this operator does not know."""

    async def test_is_read_without_it(self, caplog: pytest.LogCaptureFixture) -> None:
        world, kube, _ = a_world(None)
        world.store.put(build.newer(build.job(spec={"quantum": True, "training": {"novel": {"a": 1}}})))
        for _ in range(3):
            await reconcile_or_report(POET, world)
        assert ready(kube.statuses[0]) == ("Pending", "waits for its pod to start")
        assert [record.message for record in caplog.records if "CRD is newer" in record.message] == [
            "SFTJob team/poet: read without spec.training.novel, spec.quantum, which this operator does not know: its CRD is newer"
        ]

    @pytest.mark.parametrize(
        "spoilt",
        [
            pytest.param({"progress": {"step": "many"}}, id="a figure"),
            pytest.param({"attempts": [{"pod": 1}]}, id="an attempt"),
            pytest.param({"conditions": [COMPLETE, {"type": "Ready", "status": "Perhaps"}]}, id="another condition"),
        ],
    )
    async def test_a_status_that_is_partly_unreadable_keeps_its_end(self, spoilt: Object) -> None:
        world, _, _ = a_world(None)
        world.store.put(build.newer(build.job(status={"conditions": [COMPLETE], **spoilt})))
        await reconcile(POET, world)
        assert world.child(world.resource(POET)) is None, "what has ended is not run again"
