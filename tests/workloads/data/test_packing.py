"""Examples to sequences: best fit."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.data.packing import best_fit


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 50), max_size=80), room=st.integers(0, 50))
def test_packing_keeps_every_example_once_and_overfills_nothing(lengths: list[int], room: int) -> None:
    capacity = max([*lengths, 1]) + room
    sequences = best_fit(np.array(lengths, dtype=np.int64), capacity)
    assert sorted(index for sequence in sequences for index in sequence) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in sequence) <= capacity for sequence in sequences)
    free = sorted(capacity - sum(lengths[index] for index in sequence) for sequence in sequences)
    assert sum(left > capacity / 2 for left in free) <= 1  # two that are half empty would have been one


def test_packing_is_best_fit_decreasing() -> None:
    assert best_fit(np.array([3, 7, 5, 2, 3]), 10) == [[0, 1], [2, 3, 4]]
