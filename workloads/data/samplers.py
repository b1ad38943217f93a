"""How several processes share a data set: each row once, and the same number of batches for all.

Batches are dealt in turn: of what one process with twice the accumulation would see in a step, two processes see every other batch each.
Where the rows run out before every process has as many, the rest is filled up with rows that nothing is learnt from; accelerate would
begin anew and train on, or measure, some rows twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from workloads.data.collator import IGNORED

EMPTY = -1
"""The number of a row that is not there."""


class PaddedDataset(Dataset[Any]):
    """``rows``, and an empty row by the number EMPTY: a token that nothing is predicted of."""

    def __init__(self, rows: Any, pad: int) -> None:
        self._rows = rows
        self._pad = pad

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Any:
        if number != EMPTY:
            return self._rows[number]
        return {"input_ids": np.array([self._pad]), "labels": np.array([IGNORED]), "seq_lengths": (1,)}


class PadToMultipleSampler(Sampler[int]):
    """The numbers that ``sampler`` gives, then EMPTY until there are a multiple of ``multiple``."""

    def __init__(self, sampler: Any, multiple: int) -> None:
        assert isinstance(sampler, Sized)
        self._sampler: Any = sampler
        self._multiple = multiple

    def __len__(self) -> int:
        return -(-len(self._sampler) // self._multiple) * self._multiple

    def __iter__(self) -> Iterator[int]:
        yield from self._sampler
        yield from [EMPTY] * (len(self) - len(self._sampler))

    def set_epoch(self, epoch: int) -> None:
        """Another order for each pass over the rows."""
        if hasattr(self._sampler, "set_epoch"):
            self._sampler.set_epoch(epoch)
