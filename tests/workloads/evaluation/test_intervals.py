"""Confidence intervals: against tables, and by how often they hold what they are to hold."""

from __future__ import annotations

from math import comb

import pytest

from workloads.evaluation import intervals


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I: Wilson without continuity correction
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson(hits: int, trials: int, low: float, high: float) -> None:
    assert intervals.wilson(hits / trials, trials) == pytest.approx((low, high), abs=5e-5)
    above = intervals.wilson(1 - hits / trials, trials)
    assert above == pytest.approx((1 - high, 1 - low), abs=5e-5), "and of the rest, mirrored"


@pytest.mark.parametrize("chance", [0.1, 0.35, 0.5, 0.8, 0.9])
def test_wilson_holds_the_share_of_all_about_as_often_as_it_says(chance: float) -> None:
    for trials in (16, 64):
        holds = 0.0
        for hits in range(trials + 1):
            low, high = intervals.wilson(hits / trials, trials)
            if low <= chance <= high:
                holds += comb(trials, hits) * chance**hits * (1 - chance) ** (trials - hits)
        assert 0.91 < holds < 0.99, (trials, chance)


@pytest.mark.parametrize(("count", "quantile"), [(4, 3.1824), (6, 2.5706), (11, 2.2281), (31, 2.0423), (1001, 1.9623)])
def test_student_is_that_of_the_tables(count: int, quantile: float) -> None:
    low, high = intervals.student(10.0, 1.0, count)
    assert (10.0 - low, high - 10.0) == pytest.approx((quantile, quantile), rel=0.01)


def test_a_share_with_a_known_error_counts_as_many_trials_as_have_it() -> None:
    assert intervals.share(0.5, 0.05, 1000) == pytest.approx(intervals.wilson(0.5, 100))
    assert intervals.share(1.0, 0.0, 16) == intervals.wilson(1.0, 16)
    assert intervals.share(0.5, None, 16) == intervals.wilson(0.5, 16)


def test_a_mean_of_one_has_no_interval() -> None:
    assert intervals.of_mean([3.0]) is None
    assert intervals.of_mean([3.0, 3.0]) == (3.0, 3.0)
    assert intervals.error_of_ratio(3.0, 1.0, (9.0, 3.0, 1.0), 1) is None
