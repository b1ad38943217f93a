"""Whose turn it is: who is let in next, and how much of each text is read in a pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from workloads.serving.engine.answer import Answer

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
