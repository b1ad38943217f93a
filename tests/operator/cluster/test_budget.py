"""Figures are written within a budget; nobody who waits asks again and again."""

from __future__ import annotations

import pytest

from alpaca_operator.cluster.budget import WriteBudget
from alpaca_operator.cluster.store import Key


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def key(name: str) -> Key:
    return Key("SFTJob", "team", name)


class TestTheBudget:
    def test_one_write_of_a_resource_in_its_time(self) -> None:
        clock = Clock()
        budget = WriteBudget(10, 15, clock)
        assert budget.ask(key("a")) == 0
        assert budget.ask(key("a")) == 15
        clock.now = 14
        assert budget.ask(key("a")) == 1
        clock.now = 15
        assert budget.ask(key("a")) == 0

    def test_so_many_a_second_of_all_together_each_in_its_turn(self) -> None:
        clock = Clock()
        budget = WriteBudget(10, 15, clock)
        waits = [budget.ask(key(str(number))) for number in range(1000)]
        assert waits == pytest.approx([number / 10 for number in range(1000)])
        clock.now = 50.01
        assert budget.ask(key("500")) == 0
        assert budget.ask(key("501")) == pytest.approx(0.09)

    def test_figures_that_came_with_a_change_of_state_are_written(self) -> None:
        clock = Clock()
        budget = WriteBudget(10, 15, clock)
        clock.now = 5
        budget.told(key("a"))
        clock.now = 6
        assert budget.ask(key("a")) == 14
        assert budget.ask(key("b")) == 0
        clock.now = 20
        assert budget.ask(key("a")) == 0

    def test_a_new_resource_of_an_old_name_starts_anew(self) -> None:
        budget = WriteBudget(10, 15, Clock())
        budget.ask(key("a"))
        budget.forget(key("a"))
        assert budget.ask(key("a")) == pytest.approx(0.1), "after the one before"
