"""Progress is asked of pods that may be slow, broken or hostile, and written sparingly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from alpaca_operator.api.contract import PROGRESS_LIMIT, Progress
from alpaca_operator.cluster.queue import Queue
from alpaca_operator.cluster.store import Key, Store
from alpaca_operator.errors import ApiError, Unreachable
from alpaca_operator.polling import pods as module
from alpaca_operator.polling.answers import ScrapeCache
from alpaca_operator.polling.pods import GIVEN_UP_SECONDS, Scraper, Target, last_progress, parse
from alpaca_operator.settings import Settings
from tests.operator import build

POET = Key("SFTJob", "team", "poet")
TOLD = b'{"stage":"Training","step":3,"totalSteps":10,"loss":2.5}'
LOG = b'Loading weights...\n{"stage":"Training","step":7,"totalSteps":10,"loss":1,"time":"2026-01-01T00:00:00Z"}\n'


class TestTheAnswer:
    def test_is_a_progress(self) -> None:
        assert parse(TOLD) == Progress(stage="Training", step=3, total_steps=10, loss=2.5)

    def test_may_have_fields_that_a_newer_workload_adds(self) -> None:
        assert parse(b'{"stage":"Training","step":3,"novel":{}}').step == 3

    def test_may_be_of_a_stage_that_a_newer_workload_has(self) -> None:
        assert parse(b'{"stage":"Distilling","step":3}').stage == "Distilling"

    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"<html>", id="another server"),
            pytest.param(b"[]", id="another shape"),
            pytest.param(b'{"step":"3"}', id="a number as text"),
            pytest.param(b'{"stage":"<b>"}', id="a stage that is none"),
            pytest.param(b'{"step":9223372036854775808}', id="a step that the API server takes from nobody"),
            pytest.param(b'{"step":-1}', id="a step before the first"),
            pytest.param(b'{"etaSeconds":1e300}', id="more seconds than there are"),
            pytest.param(b'{"checkpoint":{"uri":"a","step":9223372036854775808}}', id="a checkpoint of no step"),
            pytest.param(TOLD[:-1], id="half of it"),
            pytest.param(TOLD + b" " * PROGRESS_LIMIT, id="more than the limit"),
        ],
    )
    def test_is_refused_as(self, answer: bytes) -> None:
        with pytest.raises(ValueError, match=r"."):
            parse(answer)


class TestTheEndOfTheLog:
    def test_gives_the_newest_step_whatever_libraries_print(self) -> None:
        found = last_progress(LOG + b'{"step": "broken"}\nsome warning\n{"message":"evaluating"}\n')
        assert found is not None
        assert (found.step, found.loss) == (7, 1.0)

    def test_may_tell_nothing(self) -> None:
        assert last_progress(b"Loading weights...\n") is None
        assert last_progress(b"") is None


class LogOnly:
    """The API server, as far as logs go."""

    def __init__(self, log: bytes | None = LOG) -> None:
        self.log = log
        self.asked = 0

    async def text(self, path: str, **_: Any) -> bytes:
        self.asked += 1
        assert path == "/api/v1/namespaces/team/pods/poet-sft-x/log"
        if self.log is None:
            raise ApiError(403, "Forbidden", "no pods/log")
        return self.log


@asynccontextmanager
async def pod_that_answers(
    handler: Callable[[web.Request], Any], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_get("/progress", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    endpoint = replace(module.JOB_ENDPOINT, port=runner.addresses[0][1])
    monkeypatch.setitem(module.ENDPOINTS, "SFTJob", endpoint)
    try:
        yield
    finally:
        await runner.cleanup()


def scraper(kube: LogOnly) -> Scraper:
    store, queue = Store(), Queue[Key]()
    store.put(build.job())
    store.put(build.child("Job", "poet-sft"))
    store.put(build.child("Pod", "poet-sft-x", status={"phase": "Running", "podIP": "127.0.0.1"}))
    settings = Settings(progress_via="Pod", progress_timeout_seconds=0.5, progress_seconds=0.01)
    return Scraper(settings, kube, store, queue, ScrapeCache())  # type: ignore[arg-type]


@asynccontextmanager
async def reading(found: Scraper) -> AsyncIterator[None]:
    task = asyncio.create_task(found.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_pod_that_tells_its_progress_wakes_its_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=TOLD)

    found = scraper(LogOnly())
    async with pod_that_answers(answer, monkeypatch), reading(found):
        assert await asyncio.wait_for(found.queue.get(), 20) == POET
    latest = found.scrapes.latest("uid-poet")
    assert latest is not None
    assert latest[0].step == 3


async def too_long(_: web.Request) -> web.Response:
    return web.Response(body=b'{"stage":"Training","step":3' + b" " * (PROGRESS_LIMIT + 10) + b"}")


async def elsewhere(_: web.Request) -> web.Response:
    raise web.HTTPFound("http://127.0.0.1:1/secrets")


async def too_late(_: web.Request) -> web.Response:
    await asyncio.sleep(30)
    return web.Response(body=TOLD)


async def broken(_: web.Request) -> web.Response:
    return web.Response(status=500, body=TOLD)


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(too_long, id="an endless answer"),
        pytest.param(elsewhere, id="a redirect"),
        pytest.param(too_late, id="silence"),
        pytest.param(broken, id="an error"),
    ],
)
async def test_a_pod_that_fails_twice_is_read_from_its_log(
    handler: Callable[[web.Request], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kube = LogOnly()
    found = scraper(kube)
    async with pod_that_answers(handler, monkeypatch), reading(found):
        assert await asyncio.wait_for(found.queue.get(), 20) == POET
    latest = found.scrapes.latest("uid-poet")
    assert latest is not None
    assert latest[0].step == 7
    assert kube.asked == 1


async def test_an_answer_that_no_workload_gives_is_told_of_until_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GIVEN_UP_SECONDS", 0.01)
    answers = [b"<html>It works!</html>"]

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=answers[-1])

    found = scraper(LogOnly(None))
    async with pod_that_answers(answer, monkeypatch), reading(found), asyncio.timeout(20):
        assert await found.queue.get() == POET
        assert found.scrapes.is_foul("uid-poet")
        assert found.scrapes.latest("uid-poet") is None
        found.queue.done(POET)
        answers.append(TOLD)
        assert await found.queue.get() == POET
        assert not found.scrapes.is_foul("uid-poet")


async def test_a_pod_that_tells_nothing_at_all_leaves_the_last_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    kube = LogOnly(None)
    found = scraper(kube)
    async with pod_that_answers(broken, monkeypatch), reading(found):
        async with asyncio.timeout(20):
            while kube.asked < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert len(found.queue) == 0
    assert found.scrapes.latest("uid-poet") is None


@pytest.mark.parametrize(
    ("told", "read_at"),
    [
        pytest.param(False, [2, 4, 8, 16, 24, 32], id="a log that tells nothing"),
        pytest.param(True, [2, 3, 4, 5, 6, 7], id="a log that tells steps"),
    ],
)
async def test_a_log_that_tells_nothing_is_read_ever_more_seldom(told: bool, read_at: list[int]) -> None:
    """At which failures to answer it is read."""
    kube = LogOnly(LOG if told else b"Loading weights...\n")
    found = scraper(kube)
    target = module.Target(POET, build.child("Pod", "poet-sft-x"))

    async def refused(*_: Any) -> bytes:
        raise Unreachable("connection refused")

    reads = []
    for failure in range(1, read_at[-1] + 1):
        before = kube.asked
        await found._read(target, refused)
        if kube.asked > before:
            reads.append(failure)
    assert reads == read_at


async def test_a_pod_without_an_address_is_no_error() -> None:
    found = scraper(LogOnly())
    with pytest.raises(Unreachable, match="no address yet"):
        await found._directly(None, build.child("Pod", "poet-sft-x"), module.JOB_ENDPOINT)  # type: ignore[arg-type]


async def not_a_progress(_: web.Request) -> web.Response:
    return web.Response(body=b'{"step": "many"}')


@pytest.mark.parametrize("handler", [too_long, not_a_progress])
async def test_a_pod_with_a_foul_answer_is_given_up_for_minutes(
    handler: Callable[[web.Request], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def counted(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        answer: web.Response = await handler(request)
        return answer

    found = scraper(LogOnly())
    async with pod_that_answers(counted, monkeypatch), reading(found):
        assert await asyncio.wait_for(found.queue.get(), 20) == POET  # what its log tells
        await asyncio.sleep(0.5)  # fifty times as long as it is waited between two questions
    assert asked == 1
    [due] = found.schedule._due.values()
    assert due - found.schedule.clock() > GIVEN_UP_SECONDS - 20


def test_a_pod_that_lets_the_operator_wait_is_asked_less_and_less() -> None:
    target = Target(POET, {})
    pauses = []
    for target.late in range(10):
        pauses.append(target.pause(5.0))
    assert pauses == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0, 300.0]


async def test_a_late_answer_counts_and_a_refused_connection_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = scraper(LogOnly())
    async with pod_that_answers(too_late, monkeypatch), reading(found):
        async with asyncio.timeout(20):
            while not any(target.late for target in found._targets.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    found = scraper(LogOnly())
    monkeypatch.setitem(module.ENDPOINTS, "SFTJob", replace(module.JOB_ENDPOINT, port=1))
    async with reading(found):
        async with asyncio.timeout(20):
            while not any(target.failures > 2 for target in found._targets.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert [target.late for target in found._targets.values()] == [0]
