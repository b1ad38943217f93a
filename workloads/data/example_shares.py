"""What each source of conversations gives to the training, in examples: a conversation is taken or left with all its parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from alpaca_operator.api.mixture import Share
from workloads.data import mixture
from workloads.data.mixture import Integers, Numbers, Part
from workloads.data.packing import ExampleFiles


def taken(sources: Sequence[Share], examples: ExampleFiles, seed: int) -> Integers:
    """Indices of the examples within what is taken of each source."""
    if not mixture.is_weighed(sources):
        return np.arange(len(examples))
    stays = np.ones(len(examples), dtype=bool)
    for number, found in enumerate(_rows_of(sources, examples, np.arange(len(examples)))):
        numbers, tokens, row, members = found
        left = mixture.taken(sources[number], numbers, tokens, seed, _field(number))
        stays[members] = (left > 0)[row]
    return np.flatnonzero(stays)


def rounds(
    sources: Sequence[Share], examples: ExampleFiles, chosen: Integers, seed: int
) -> tuple[list[Integers], list[Part]]:
    """The ``chosen`` examples once, and again for each time that their source's weight asks for; and what that makes of each source."""
    count = np.ones(len(examples), dtype=np.int64)
    parts = []
    there = [len(np.unique(examples.rows[examples.sources == number])) for number in range(len(sources))]
    for number, found in enumerate(_rows_of(sources, examples, chosen)):
        numbers, tokens, row, members = found
        often = mixture.times(sources[number], numbers, seed, _field(number))
        count[members] = often[row]
        average = float(often.mean()) if len(often) else 0.0
        parts.append(Part(_field(number), there[number], int(often.sum()), int((often * tokens).sum()), average))
    most = int(count[chosen].max(initial=1))
    return [chosen[count[chosen] > number] for number in range(most)], parts


def _rows_of(
    sources: Sequence[Share], examples: ExampleFiles, chosen: Integers
) -> Iterator[tuple[Numbers, Integers, Integers, Integers]]:
    """Of each source's rows among the ``chosen`` examples: their numbers, their tokens, and, for each example, which row it is of and which
    example it is."""
    for number in range(len(sources)):
        members = chosen[examples.sources[chosen] == number]
        _, first, row = np.unique(examples.rows[members], return_index=True, return_inverse=True)
        tokens = np.bincount(row, weights=examples.lengths[members], minlength=len(first)).astype(np.int64)
        yield examples.conversations[members][first], tokens, row, members


def _field(number: int) -> str:
    return f"dataset.train[{number}]"
