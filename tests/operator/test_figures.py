"""Figures as kubectl shows them."""

from __future__ import annotations

import pytest

from alpaca_operator import figures


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
