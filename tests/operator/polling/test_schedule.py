"""What is due is read, within a budget; nobody waits for one that takes long."""

from __future__ import annotations

import asyncio

import pytest

from alpaca_operator.polling import schedule as module
from alpaca_operator.polling.schedule import ReadBudget, Schedule, poll


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def due(schedule: Schedule[str]) -> list[str]:
    found = []
    while (key := schedule.pop()) is not None:
        found.append(key)
    return found


class TestTheSchedule:
    def test_gives_what_is_due_the_longest_first_and_once(self) -> None:
        clock = Clock()
        schedule = Schedule[str](clock)
        schedule.set("late", 5)
        schedule.set("soon", 1)
        schedule.set("now", 0)
        assert due(schedule) == ["now"]
        clock.now += 5
        assert due(schedule) == ["soon", "late"]
        assert (due(schedule), len(schedule)) == ([], 0)

    def test_the_last_word_on_a_key_holds(self) -> None:
        clock = Clock()
        schedule = Schedule[str](clock)
        schedule.set("a", 1)
        schedule.set("a", 9)
        clock.now += 5
        assert due(schedule) == []
        clock.now += 5
        assert due(schedule) == ["a"]

    def test_what_is_removed_is_never_due(self) -> None:
        clock = Clock()
        schedule = Schedule[str](clock)
        schedule.set("a", 1)
        schedule.set("b", 2)
        schedule.remove("a")
        clock.now += 5
        assert due(schedule) == ["b"]

    def test_who_is_asked_for_again_and_again_is_not_put_off(self) -> None:
        clock = Clock()
        schedule = Schedule[str](clock)
        for _ in range(4):
            schedule.set_sooner("a", 3)
            clock.now += 1
        assert due(schedule) == ["a"]

    def test_a_longer_pause_gives_way_to_a_shorter_one(self) -> None:
        clock = Clock()
        schedule = Schedule[str](clock)
        schedule.set("a", 60)
        schedule.set_sooner("a", 3)
        clock.now += 3
        assert due(schedule) == ["a"]


class TestTheBudget:
    async def test_gives_so_many_turns_a_second_to_all_together(self) -> None:
        clock = Clock()
        budget = ReadBudget(20, 32, clock, clock.sleep)
        for _ in range(4):
            async with budget.turn():
                pass
        assert clock.slept == pytest.approx([0.05, 0.05, 0.05])

    async def test_does_not_save_up_turns_that_nobody_took(self) -> None:
        clock = Clock()
        budget = ReadBudget(20, 32, clock, clock.sleep)
        clock.now += 1000
        async with budget.turn():
            pass
        async with budget.turn():
            pass
        assert clock.slept == pytest.approx([0.05])

    async def test_gives_so_many_turns_at_once(self) -> None:
        clock = Clock()
        budget = ReadBudget(1000, 2, clock, clock.sleep)
        inside, most = 0, 0
        go = asyncio.Event()

        async def read() -> None:
            nonlocal inside, most
            async with budget.turn():
                inside += 1
                most = max(most, inside)
                await go.wait()
                inside -= 1

        readers = [asyncio.create_task(read()) for _ in range(5)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert inside == 2
        go.set()
        await asyncio.gather(*readers)
        assert most == 2


async def test_one_that_takes_long_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.0)
    schedule, stuck, read = Schedule[str](), asyncio.Event(), asyncio.Queue[str]()
    schedule.set("slow", 0)
    schedule.set("quick", 0)

    async def one(key: str) -> float | None:
        read.put_nowait(key)
        if key == "slow":
            await stuck.wait()
        return 0.0

    loop = asyncio.create_task(poll(schedule, one))
    try:
        first = [await asyncio.wait_for(read.get(), 20) for _ in range(4)]
    finally:
        loop.cancel()
        await asyncio.wait([loop])
    assert first == ["slow", "quick", "quick", "quick"], "and a key is never read twice at once"


async def test_what_gives_no_time_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.0)
    schedule, read = Schedule[str](), []
    schedule.set("a", 0)
    looks = asyncio.Semaphore(0)

    async def one(key: str) -> float | None:
        read.append(key)
        return None

    loop = asyncio.create_task(poll(schedule, one, looks.release))
    try:
        for _ in range(5):
            await asyncio.wait_for(looks.acquire(), 20)
    finally:
        loop.cancel()
        await asyncio.wait([loop])
    assert read == ["a"]
