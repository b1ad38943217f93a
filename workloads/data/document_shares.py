"""What each source of text gives to the training, in documents of a tokenised corpus."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from alpaca_operator.api.mixture import Share
from workloads.data import document_split, mixture
from workloads.data.mixture import Integers, Part

Documents = np.ndarray[Any, Any]
"""Rows of `document_split.RECORD`."""
Flags = np.ndarray[Any, Any]


class Mixed:
    """The documents of several sources, and what is taken of each."""

    def __init__(self, sources: Sequence[Share], documents: Documents, counts: Sequence[int], seed: int) -> None:
        """``counts`` are the documents of each source, which lie one source after the other. Raises SpecError where nothing is left of one."""
        assert sum(counts) == len(documents), "each document is somebody's"
        self._sources, self._documents, self._seed = sources, documents, seed
        ends = np.cumsum([0, *counts]).tolist()
        self._members = [slice(start, end) for start, end in pairwise(ends)]
        self._tokens = document_split.lengths(documents)
        for number, (source, members) in enumerate(zip(sources, self._members, strict=True)):
            digests, tokens = documents["digest"][members], self._tokens[members]
            self._tokens[members] = mixture.taken(source, digests, tokens, seed, _field(number), cut=True)

    @property
    def is_taken(self) -> Flags:
        """Of which documents anything is taken."""
        found: Flags = self._tokens > 0
        return found

    def without(self, aside: Flags) -> tuple[Integers, list[Part]]:
        """Where what is trained on begins and ends (rows ``[start, end]``, in tokens) but for the documents ``aside``: all once, then again those
        that are to be repeated, and again. And what that makes of each source."""
        tokens = np.where(aside, 0, self._tokens)
        count = np.zeros(len(tokens), dtype=np.int64)
        parts = []
        for number, (source, members) in enumerate(zip(self._sources, self._members, strict=True)):
            there = tokens[members] > 0
            digests = self._documents["digest"][members][there]
            often = mixture.times(source, digests, self._seed, _field(number))
            count[members][there] = often
            amount = int((often * tokens[members][there]).sum())
            average = float(often.mean()) if len(often) else 0.0
            parts.append(Part(_field(number), len(tokens[members]), int(often.sum()), amount, average))
        rounds = range(int(count.max(initial=0)))
        found = [ranges(self._documents, np.where(count > number, tokens, 0)) for number in rounds]
        return np.concatenate([np.empty((0, 2), dtype=np.int64), *found]), parts


def evaluated(limit: int, digests: Documents, tokens: Integers, seed: int) -> Integers:
    """Tokens that an evaluation reads of each document, the last one cut. Raises SpecError where there is nothing to foretell in them."""
    return mixture.evaluated(limit, digests, tokens, seed, cut=True)


def ranges(documents: Documents, tokens: Integers) -> Integers:
    """Where the first ``tokens`` of each document begin and end, neighbours together: a row ``[start, end]`` each. What is cut off a document
    is not the token that ends it: that comes after its cut, at the end of all."""
    lengths = document_split.lengths(documents)
    found = [document_split.ranges(documents, tokens == lengths)]
    ends = documents["end"]
    for number in np.flatnonzero((tokens > 1) & (tokens < lengths)).tolist():
        start = int(ends[number] - lengths[number])
        found.append(np.array([[start, start + int(tokens[number]) - 1], [int(ends[number]) - 1, int(ends[number])]]))
    return np.concatenate(found)


def _field(number: int) -> str:
    return f"dataset.train[{number}]"
