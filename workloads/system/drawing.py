"""Draws that depend on a seed and on what is drawn alone: the same in every process, and after every restart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def draw(numbers: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """Another number for each, under each seed (the last steps of splitmix64): equal ones get equal ones."""
    with np.errstate(over="ignore"):
        mixed = numbers + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)
