"""Figures as kubectl shows them."""

from __future__ import annotations

import pytest

from alpaca_operator.jobs import figures


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (59, "59s"),
        (60, "1m"),
        (3599, "59m"),
        (3600, "1h00m"),
        (7530, "2h05m"),
        (90061, "1d01h"),
        (-5, "0s"),
    ],
)
def test_a_duration(seconds, shown):
    assert figures.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param(30.254317283630371, 30.2543, id="kubectl would show all of them"),
        pytest.param(1.23456789e-7, 1.23457e-7, id="small ones too"),
        pytest.param(123456789.0, 123456789.0, id="a count of tokens is exact"),
        pytest.param(1.0, 1.0, id="a share of all"),
    ],
)
def test_a_metric_has_six_figures(value, shown):
    assert figures.metric(value) == shown
