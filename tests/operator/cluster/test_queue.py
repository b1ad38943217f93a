"""The queue keeps client-go's contract."""

from __future__ import annotations

import asyncio
import random

import pytest

from alpaca_operator.cluster.queue import FIRST_DELAY, Queue, Result


class NoJitter(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return 1.0


async def taken(queue: Queue[str]) -> str:
    return await asyncio.wait_for(queue.get(), 10)


async def test_a_key_added_twice_is_handed_out_once() -> None:
    queue = Queue[str]()
    queue.add("a")
    queue.add("a")
    assert await taken(queue) == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_a_key_added_while_it_is_worked_on_is_handed_out_once_more_when_that_is_done() -> None:
    queue = Queue[str]()
    queue.add("a")
    assert await taken(queue) == "a"
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert await taken(queue) == "b"
    second = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    assert not second.done(), "a key is never in the hands of two workers"
    queue.done("a")
    assert await asyncio.wait_for(second, 10) == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_keys_ahead_are_handed_out_first_in_their_order() -> None:
    queue = Queue[str]()
    queue.add("a")
    queue.add("b", ahead=True)
    queue.add("c", ahead=True)
    assert [await taken(queue) for _ in range(3)] == ["b", "c", "a"]


async def test_five_hundred_keys_of_one_tenant_let_another_in_at_its_turn() -> None:
    queue = Queue[tuple[str, int]](tenant=lambda key: key[0])
    for number in range(500):
        queue.add(("many", number), ahead=True)
    queue.add(("few", 0))
    queue.add(("few", 1), ahead=True)
    taken = [await asyncio.wait_for(queue.get(), 10) for _ in range(6)]
    assert taken == [("many", 0), ("few", 1), ("many", 1), ("few", 0), ("many", 2), ("many", 3)]


async def test_a_tenant_that_comes_back_again_and_again_waits_its_turn_each_time() -> None:
    queue = Queue[tuple[str, int]](tenant=lambda key: key[0])
    for number in range(3):
        queue.add(("few", number))
    order = []
    queue.add(("busy", 0))
    for _ in range(6):
        key = await asyncio.wait_for(queue.get(), 10)
        order.append(key[0])
        if key[0] == "busy":
            queue.add(key)  # something happened to it meanwhile
        queue.done(key)
    assert order == ["few", "busy", "few", "busy", "few", "busy"]


async def test_a_waiting_worker_is_woken() -> None:
    queue = Queue[str]()
    workers = [asyncio.ensure_future(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    for key in "abc":
        queue.add(key)
    assert sorted(await asyncio.wait_for(asyncio.gather(*workers), 10)) == ["a", "b", "c"]


async def test_delays_double_up_to_the_limit_and_success_starts_anew() -> None:
    queue = Queue[str](NoJitter())
    assert [queue.backoff("a", longest=1.0) for _ in range(4)] == [FIRST_DELAY, 0.5, 1.0, 1.0]
    assert queue.backoff("b") == FIRST_DELAY, "each key has its own delay"
    assert queue.backoff("c", longest=1.0, not_before=7.0) == 7.0, "as long as the API server asks for"
    queue.forget("a")
    assert queue.backoff("a") == FIRST_DELAY


async def test_delays_are_jittered() -> None:
    queue = Queue[int](random.Random(1))
    delays = {queue.backoff(key) for key in range(20)}
    assert len(delays) == 20
    assert all(0.75 * FIRST_DELAY <= delay <= 1.25 * FIRST_DELAY for delay in delays)


async def test_of_two_delays_the_shorter_one_holds() -> None:
    queue = Queue[str]()
    queue.add_after("a", 3600)
    queue.add_after("a", 0)
    queue.add_after("a", 3600)
    assert await taken(queue) == "a"


@pytest.mark.parametrize(
    ("again", "seconds", "sooner"),
    [
        pytest.param(Result.never, None, Result.never, id="nothing stays nothing"),
        pytest.param(Result.never, 5.0, Result(requeue_after=5.0), id="a time is sooner than never"),
        pytest.param(Result(requeue_after=3.0), 5.0, Result(requeue_after=3.0), id="the sooner one holds"),
        pytest.param(Result(requeue_after=9.0), 5.0, Result(requeue_after=5.0), id="whichever it is"),
        pytest.param(Result.never, -1.0, Result(requeue_after=0.0), id="what is due is due now"),
        pytest.param(
            Result(requeue_after=60, failed=True),
            5.0,
            Result(requeue_after=60, failed=True),
            id="a failure keeps its backoff",
        ),
    ],
)
def test_the_sooner_of_two_looks(again: Result, seconds: float | None, sooner: Result) -> None:
    assert again.or_sooner(seconds) == sooner
