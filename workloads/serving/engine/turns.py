"""Whose turn it is: who is let in next, and how much of each text is read in a pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from workloads.serving.engine.answer import Answer

LARGER = 4
"""A piece is up to so many times as large where nobody is kept waiting by it."""
UNNOTICED_SECONDS = 0.1
"""A pass that takes no longer is noticed by nobody who comes while it runs."""
OLDEST = 4
"""The prompt that came first gets this part of every pass, whatever shorter ones come after it."""


def next_in(waiting: Iterable[Answer], running: Iterable[Answer]) -> Answer:
    """Of those who wait: one that had to make room, else one of whom fewest answers are in progress, else the one that came first."""
    present = Counter(answer.key for answer in running)
    return min(waiting, key=lambda answer: (not answer.written, present[answer.key]))


def shares(unseen: list[int], piece: int) -> list[int]:
    """How many tokens of each text a pass reads, ``piece`` together, by those that are unread: the short ones first, and always some of
    the one that came first."""
    if not unseen:
        return []
    counts = [min(unseen[0], max(1, piece // OLDEST)), *[0] * (len(unseen) - 1)]
    left = piece - counts[0]
    for number in sorted(range(len(unseen)), key=unseen.__getitem__):
        more = min(left, unseen[number] - counts[number])
        counts[number] += more
        left -= more
    return counts


class Piece:
    """How many prompt tokens a pass reads. Every pass costs something by itself, so that large pieces are read sooner; but who comes meanwhile
    waits for the end of one, and so do answers in progress. It is large where that is nobody, or where all that is unread goes into it, as
    long as passes are short."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most
        self._larger = least
        """As large as one may be by the time that the last took."""

    def size(self, unseen: list[int], *, alone: bool) -> int:
        """For texts of which so many tokens are unread. ``alone``: nobody else is answered."""
        return self._larger if alone or sum(unseen) <= self._larger else self._least

    def note(self, tokens: int, seconds: float) -> None:
        """A pass that read so many tokens took so long."""
        if seconds > UNNOTICED_SECONDS:
            self._larger = max(self._least, self._larger // 2)
        elif tokens >= self._larger and seconds <= UNNOTICED_SECONDS / 2:
            self._larger = min(self._most, 2 * self._larger)
