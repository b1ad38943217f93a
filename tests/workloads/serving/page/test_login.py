"""Sessions that end, and guesses that are counted."""

from __future__ import annotations

from typing import Any

import pytest

from workloads.serving.page.login import PER_CLIENT, PER_PEER, SESSION_SECONDS, Attempts, Sessions
from workloads.serving.page.settings import Login
from workloads.serving.refusal import Refusal

LOGIN = Login("li", "床前明月光")


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_holds_until_its_end_in_every_replica() -> None:
    clock = Clock()
    session = Sessions(LOGIN, clock).new()
    other = Sessions(LOGIN, clock)
    assert other.holds(session)
    clock.now += SESSION_SECONDS - 1
    assert other.holds(session)
    clock.now += 1
    assert not other.holds(session)


def test_no_session_is_made_by_somebody_else() -> None:
    sessions = Sessions(LOGIN)
    end, _, signature = sessions.new().partition(".")
    for forged in (
        None, "", ".", end, f"{end}.", f"{int(end) + 1}.{signature}", f"٣.{signature}", f"{end}.{signature}0", f"-{end}.{signature}",
        f"{'9' * 5000}.{signature}", f"{end}.签",
    ):  # fmt: skip
        assert not sessions.holds(forged)
    assert not Sessions(Login("li", "another")).holds(f"{end}.{signature}")
    assert Sessions(Login("li", "another")).cookie != sessions.cookie


def scope(peer: str = "10.0.0.1", forwarded: str | None = None) -> dict[str, Any]:
    return {"client": (peer, 1), "headers": [(b"x-forwarded-for", forwarded.encode())] if forwarded else []}


def test_wrong_passwords_are_few_a_minute_and_harm_nobody_else() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for number in range(1, PER_CLIENT + 1):
        attempts.check(scope())
        assert attempts.failed(scope()) == number
    with pytest.raises(Refusal, match="10 wrong passwords within a minute: try again in 60 s") as refused:
        attempts.check(scope())
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "60"})
    attempts.check(scope("10.0.0.2"))
    clock.now += 61
    attempts.check(scope())


def test_behind_a_proxy_each_client_has_its_own_and_lies_about_it_do_not_help() -> None:
    attempts = Attempts(Clock())
    for _ in range(PER_CLIENT):
        attempts.failed(scope(forwarded="1.1.1.1, 192.0.2.1"))
    with pytest.raises(Refusal):
        attempts.check(scope(forwarded="8.8.8.8, 192.0.2.1"))
    attempts.check(scope(forwarded="192.0.2.2"))
    for number in range(PER_PEER - PER_CLIENT):
        attempts.failed(scope(forwarded=f"192.0.2.{number}"))
    with pytest.raises(Refusal, match="60 wrong passwords"):
        attempts.check(scope(forwarded="198.51.100.1"))
