"""How much of each of several sources is trained on: which of their rows, and how often. Drawn by the seed and by what a row says, so that it is
the same however the work is shared out, and the same again after a restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alpaca_operator.api.mixture import Share
from workloads.errors import SpecError
from workloads.system.drawing import draw

Integers = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.uint64]

FOR_CAPS, FOR_WEIGHTS, FOR_EVALUATION = np.uint64(0x5DEECE66D), np.uint64(0xB5297A4D3), np.uint64(0x68E31DA4F)
"""One draw says nothing of another."""


@dataclass(frozen=True)
class Part:
    """What a source gives to the training."""

    field: str
    """Where the spec names it."""
    there: int
    """Rows that it has."""
    rows: int
    """Rows that are trained on, each as often as it is in an epoch."""
    tokens: int
    """In them."""
    times: float
    """How often a row of those that are taken is trained on in an epoch, on the average."""

    def as_dict(self, epochs: float) -> dict[str, Any]:
        """For the artifact; ``epochs`` are those of the whole."""
        return {
            "source": self.field,
            "rows": self.rows,
            "tokens": self.tokens,
            "epochs": float(f"{epochs * self.times:.4g}"),
        }

    def line(self, epochs: float, whole: int) -> str:
        """For the log; ``whole`` tokens are in all parts."""
        share = self.tokens / whole if whole else 0.0
        return (
            f"mixture: {self.field}: {self.rows:,} rows an epoch of {self.there:,} there, {self.tokens:,} tokens ({share:.1%}), "
            f"each row {epochs * self.times:.4g} times in all"
        )


def is_weighed(sources: Sequence[Share]) -> bool:
    """Whether rows are left out or repeated."""
    return not all(source.is_whole for source in sources)


def taken(share: Share, numbers: Numbers, tokens: Integers, seed: int, field: str, *, cut: bool = False) -> Integers:
    """Tokens that are taken of each row: all of them, none, or, with ``cut``, of the last one what its source has left.

    ``numbers`` stand for what the rows say. Raises SpecError where nothing is left of a source that had rows.
    """
    found = tokens.copy()
    order = np.argsort(draw(numbers ^ FOR_CAPS, seed), kind="stable")
    if share.max_rows is not None:
        found[order[share.max_rows :]] = 0
    if share.max_tokens is not None:
        found = up_to(share.max_tokens, order, found, cut=cut)
        if len(tokens) and not found.any():
            raise SpecError(
                f"{field}.maxTokens is {share.max_tokens}, and none of its {len(tokens):,} rows has so few (the shortest has {tokens.min():,}): raise it"
            )
    return found


def up_to(limit: int, order: Integers, tokens: Integers, *, cut: bool) -> Integers:
    """Of ``tokens`` (of each row) those of the rows that come first in ``order`` and hold ``limit`` together at most."""
    found = np.zeros_like(tokens)
    order = order[tokens[order] > 0] if cut else order[(tokens[order] > 0) & (tokens[order] <= limit)]
    ends = np.cumsum(tokens[order])
    whole = int(np.searchsorted(ends, limit, side="right"))
    found[order[:whole]] = tokens[order[:whole]]
    if cut and whole < len(order):
        found[order[whole]] = limit - (int(ends[whole - 1]) if whole else 0)
    return found


def times(share: Share, numbers: Numbers, seed: int, field: str) -> Integers:
    """How often each row is trained on in an epoch. Raises SpecError where none is."""
    whole, rest = divmod(share.weight, 1)
    drawn = draw(numbers ^ FOR_WEIGHTS, seed) < np.uint64(int(rest * 2**63) * 2)
    found = np.full(len(numbers), int(whole)) + drawn
    if len(numbers) and not found.any():
        raise SpecError(f"{field}.weight is {share.weight:g}, and none of its {len(numbers):,} rows is drawn: raise it")
    return found


def evaluated(limit: int, numbers: Numbers, tokens: Integers, seed: int, *, cut: bool = False) -> Integers:
    """Tokens that are evaluated of each row. Raises SpecError where none are."""
    found = up_to(limit, np.argsort(draw(numbers ^ FOR_EVALUATION, seed), kind="stable"), tokens, cut=cut)
    if not found.any():
        raise SpecError(
            f"dataset.maxEvalTokens is {limit}, and none of the {len(tokens):,} validation rows has so few tokens (the shortest has "
            f"{tokens.min():,}): raise it"
        )
    return found
