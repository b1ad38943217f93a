"""Who works on a resource is what it says, for as long as that operator's Lease is held."""

from __future__ import annotations

from typing import Any

import pytest

from alpaca_operator.cluster.claims import Claims, Other
from alpaca_operator.errors import ApiError
from alpaca_operator.settings import Settings
from tests.operator import build

SETTINGS = Settings(operator_namespace="default", lease_name="mine", identity="laptop")
THEIRS = "literary-alpaca-system/literary-alpaca"


class Leases:
    """The API server, as far as one Lease goes."""

    def __init__(self) -> None:
        self.holder: str | None = "operator-a"
        self.version = 1
        self.forbidden = False
        self.asked: list[str] = []

    async def get(self, _api: object, namespace: str, name: str) -> dict[str, Any] | None:
        self.asked.append(f"{namespace}/{name}")
        if self.forbidden:
            raise ApiError(403, "Forbidden", "leases is forbidden")
        if self.holder is None:
            return None
        return {
            "metadata": {"resourceVersion": str(self.version)},
            "spec": {"holderIdentity": self.holder, "leaseDurationSeconds": 15},
        }


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def leases() -> Leases:
    return Leases()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def claims(leases: Leases, clock: Clock) -> Claims:
    return Claims(leases, SETTINGS, clock)  # type: ignore[arg-type]


def job(operator: str = "") -> dict[str, Any]:
    return build.job(status={"operator": operator} if operator else {})


@pytest.mark.parametrize("operator", ["", "default/mine"])
async def test_what_nobody_or_this_operator_has_taken_up_asks_nobody(claims, leases, operator):
    assert await claims.other(job(operator)) is None
    assert claims.may_write(job(operator))
    assert leases.asked == []


async def test_another_operator_keeps_what_it_has_while_it_renews_its_lease(claims, leases, clock):
    for _ in range(20):
        assert await claims.other(job(THEIRS)) == Other(THEIRS, "operator-a")
        assert not claims.may_write(job(THEIRS))
        clock.now += 10
        leases.version += 1
    assert set(leases.asked) == {THEIRS}


async def test_a_lease_that_nobody_renews_is_left_behind_but_not_at_once(claims, leases, clock):
    assert await claims.other(job(THEIRS)) is not None
    clock.now += 30  # its holder is being replaced
    assert await claims.other(job(THEIRS)) is not None
    clock.now += 40
    assert await claims.other(job(THEIRS)) is None
    assert claims.may_write(job(THEIRS))


async def test_a_lease_that_was_given_back_waits_for_its_next_holder_first(claims, leases, clock):
    leases.holder = ""
    assert await claims.other(job(THEIRS)) is not None
    clock.now += 10
    leases.holder, leases.version = "operator-b", 2
    assert await claims.other(job(THEIRS)) == Other(THEIRS, "operator-b")


async def test_a_lease_that_is_gone_holds_nothing(claims, leases):
    leases.holder = None
    assert await claims.other(job(THEIRS)) is None


async def test_a_lease_that_may_not_be_read_counts_as_held(claims, leases, clock):
    leases.forbidden = True
    for _ in range(3):
        assert str(await claims.other(job(THEIRS))) == f"the operator of Lease {THEIRS}"
        clock.now += 1000


async def test_a_lease_is_read_once_for_all_resources(claims, leases):
    for number in range(100):
        await claims.other(build.job(f"poet-{number}", uid=f"uid-{number}", status={"operator": THEIRS}))
    assert leases.asked == [THEIRS]


async def test_what_nobody_has_asked_about_is_not_written_to(claims):
    assert not claims.may_write(job(THEIRS)), "another operator was faster"
