"""The bound of what is set aside, found without sorting."""

from __future__ import annotations

import numpy as np
import pytest

from workloads.curation.choice import at_place


@pytest.mark.parametrize("seed", range(3))
def test_a_number_at_its_place(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, 1 << 64, size=size, dtype=np.uint64) for size in (0, 500, 1, 90)]
    parts.append(np.array([0, 0, (1 << 64) - 1, (1 << 64) - 1, 1 << 48, (1 << 48) + 1, 1 << 16], dtype=np.uint64))
    numbers = sorted(number for part in parts for number in part.tolist())
    assert [at_place(lambda: parts, place) for place in range(len(numbers))] == numbers
