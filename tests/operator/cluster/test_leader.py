"""The Lease: who holds it works, and nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from alpaca_operator.cluster.leader import LeaderElector
from alpaca_operator.errors import ApiError, NotLeading, Unreachable
from alpaca_operator.settings import Settings
from tests.operator.build import next_version

Object = dict[str, Any]


class Lost(Exception):
    """What takes the place of the end of the process."""


class Leases:
    """The API server, as far as one Lease goes."""

    def __init__(self) -> None:
        self.lease: Object | None = None
        self.down = False
        self.writes = 0

    async def get(self, _api: object, _namespace: str, _name: str) -> Object | None:
        self._answer()
        return self.lease

    async def create(self, _api: object, body: Object, *, fenced: bool) -> Object:
        self._answer()
        if self.lease is not None:
            raise ApiError(409, "AlreadyExists", "it exists")
        return self._store(body)

    async def replace(self, _api: object, body: Object, *, fenced: bool) -> Object:
        assert not fenced, "the Lease's own writes cannot wait for the Lease"
        self._answer()
        assert self.lease is not None
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "it was written in between")
        return self._store(body)

    def _answer(self) -> None:
        if self.down:
            raise Unreachable("no answer")

    def _store(self, body: Object) -> Object:
        self.writes += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": next_version()}}
        return self.lease


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def leases() -> Leases:
    return Leases()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lost() -> None:
    raise Lost


def elector(leases: Leases, clock: Clock, identity: str = "a") -> LeaderElector:
    settings = Settings(operator_namespace="ops", identity=identity, lease_seconds=15, renew_seconds=4)
    return LeaderElector(leases, settings, clock=clock, lost=lost)  # type: ignore[arg-type]


def holder(leases: Leases) -> str:
    assert leases.lease is not None
    return str(leases.lease["spec"]["holderIdentity"])


async def test_the_first_one_gets_it_and_the_second_waits(leases: Leases, clock: Clock) -> None:
    first, second = elector(leases, clock, "a"), elector(leases, clock, "b")
    await first.try_once()
    await second.try_once()
    assert (first.leading.is_set(), second.leading.is_set()) == (True, False)
    assert holder(leases) == "a"
    first.check()
    with pytest.raises(NotLeading, match="the Lease literary-alpaca is not held"):
        second.check()


async def test_a_released_lease_is_free_at_once(leases: Leases, clock: Clock) -> None:
    first, second = elector(leases, clock, "a"), elector(leases, clock, "b")
    await first.try_once()
    await first.release()
    with pytest.raises(NotLeading):
        first.check()
    await second.try_once()
    assert holder(leases) == "b"
    assert leases.lease is not None
    assert leases.lease["spec"]["leaseTransitions"] == 1


async def test_a_lease_left_by_the_same_pods_last_container_is_taken_over_at_once(leases: Leases, clock: Clock) -> None:
    await elector(leases, clock, "a").try_once()
    restarted = elector(leases, clock, "a")
    await restarted.try_once()
    assert restarted.leading.is_set()


async def test_a_silent_holders_lease_is_free_after_its_duration_by_ones_own_clock(
    leases: Leases, clock: Clock
) -> None:
    await elector(leases, clock, "a").try_once()
    second = elector(leases, clock, "b")
    await second.try_once()
    clock.now += 14.9
    await second.try_once()
    assert not second.leading.is_set()
    clock.now += 0.2
    await second.try_once()
    assert second.leading.is_set()


async def test_a_holder_that_renews_keeps_it_however_long(leases: Leases, clock: Clock) -> None:
    first, second = elector(leases, clock, "a"), elector(leases, clock, "b")
    await first.try_once()
    for _ in range(10):
        clock.now += 10
        await first.try_once()
        await second.try_once()
    assert holder(leases) == "a"
    first.check()


async def test_writes_end_before_the_lease_does(leases: Leases, clock: Clock) -> None:
    first = elector(leases, clock)
    await first.try_once()
    clock.now += 13.4
    first.check()
    clock.now += 0.2
    with pytest.raises(NotLeading):
        first.check()


async def test_a_lost_lease_ends_the_process(leases: Leases, clock: Clock) -> None:
    first = elector(leases, clock)
    await first.try_once()
    assert leases.lease is not None
    leases._store({**leases.lease, "spec": {**leases.lease["spec"], "holderIdentity": "thief"}})
    with pytest.raises(Lost):
        await first.try_once()


async def test_a_renewal_whose_answer_got_lost_is_no_loss(leases: Leases, clock: Clock) -> None:
    first = elector(leases, clock)
    await first.try_once()
    assert leases.lease is not None
    leases._store(leases.lease)
    await first.try_once()
    await first.try_once()
    assert first.leading.is_set()


async def test_an_api_server_that_is_away_for_too_long_ends_the_process(leases: Leases, clock: Clock) -> None:
    first = elector(leases, clock)
    await first.try_once()
    leases.down = True
    clock.now += 11
    assert await first.try_once() == 1.0, "tried again soon"
    clock.now += 1.1
    with pytest.raises(Lost):
        await first.try_once()


async def test_two_that_race_for_it_end_with_one(leases: Leases, clock: Clock) -> None:
    racers = [elector(leases, clock, name) for name in "abcd"]
    await asyncio.gather(*(each.try_once() for each in racers))
    await asyncio.gather(*(each.try_once() for each in racers))
    assert [each.leading.is_set() for each in racers].count(True) == 1
