"""The rows of a model in the memory that there is for them: those of answers in progress, and those that are over and make room.

A row outlives its answer until its memory is needed, so that the next question of a conversation costs what is new in it, and questions
that begin alike (a system prompt, examples) are read once.

transformers has a paged cache that shares beginnings too. It is not used: without FlashAttention its attention computes every token
against the keys of all answers and masks the others' (a short answer pays for the longest, and for all the rest), on a CPU it takes what
memory it can get at once, and it is bound to a sampler that passes repetition penalties over and knows no seed of each answer.
"""

from __future__ import annotations

from workloads.serving.engine.rows import GROWTH, Group, Row

WORTH = 8
"""Tokens of a common beginning, from which on it is taken over."""
KEPT = 256
"""Rows of answers that are over, at most: each new question is held against all of them."""


class Conversations:
    """All rows of a model, within ``positions`` tokens that there is memory for."""

    def __init__(self, positions: int, *, remembers: bool = True) -> None:
        """``remembers``: whether rows outlive their answers; those of a model whose positions are stretched by the length of a text are
        of no use to another text."""
        self.positions = positions
        self._remembers = remembers
        self.living: list[Row] = []
        """Of answers in progress, in the order in which they began."""
        self.groups: list[Group] = []
        """Those of them that are written."""
        self.over: list[Row] = []
        """The longest unused first."""

    @property
    def in_use(self) -> int:
        """Positions held for answers in progress."""
        return sum(group.held for group in self.groups) + sum(row.capacity for row in self.living)

    @property
    def held(self) -> int:
        """Positions that memory is held for."""
        return self.in_use + sum(row.capacity for row in self.over)

    def has_room(self, tokens: int, most: int) -> bool:
        """Whether a new row for so many tokens has room beside those of answers in progress. One that is alone gets what it needs."""
        return not self.living or self.in_use + min(most, tokens + GROWTH) <= self.positions

    def begin(self, tokens: list[int], most: int, adapter: int | None = None, *, anew: bool = False) -> Row:
        """A row for a text, with what is known already of its beginning: all but the last token at most, which has to be computed anew to
        know what follows. ``most``: positions that it may come to. ``adapter``: place of
        the one that the model wears. ``anew``: all of it is to be computed."""
        row = Row(most, min(most, len(tokens) + GROWTH), adapter)
        known, length = (None, 0) if anew else self._like(tokens, adapter)
        if known is not None and known in self.over:
            self.over.remove(known)
            if 2 * length >= known.length or not self._make_room(row.capacity + known.capacity):
                row.take_over(known, length)  # what is lost by it is the end of an answer that is written anew
            else:
                self.over.append(known)
        self._make_room(row.capacity)
        if known is not None and not row.length:
            row.copy_of(known, length)
        self.living.append(row)
        return row

    def join(self, row: Row) -> None:
        """Let a row whose text is read be written with those about as long, where there is room for that, or else by itself."""
        group = next((each for each in self.groups if each.suits(row)), None)
        if group is not None:
            slots = max(group.slots, len(group.rows) + 1)
            length = max(group.length, min(row.most, row.length + GROWTH))
            if self._make_room(slots * length - group.held - row.capacity):
                if (slots, length) != (group.slots, group.length):
                    group.resize(slots, length)
                group.add(row)
                return
        self.groups.append(Group(row))

    def grow(self) -> bool:
        """Hold room for another token of every row that is written. False when only an answer in progress could give it."""
        return all(self._grown(group) for group in self.groups if group.reach >= group.length)

    def _grown(self, group: Group) -> bool:
        reach, count = group.reach, len(group.rows)
        most = max(row.most for row in group)
        for length in (min(most, reach + max(GROWTH, reach // 8)), reach + 1):
            if self._make_room(count * length - group.held) or len(self.living) == 1:
                group.resize(count, length)
                return True
        return False

    def end(self, row: Row) -> None:
        """Its answer is over."""
        group, keeps = row.group, self._remembers and row.length >= WORTH
        if group is not None and keeps and (group.slots == 1 or self._make_room(row.length)):
            group.give_back(row)
        elif group is not None:
            keeps = False
        self.drop(row)
        if keeps:
            self.over.append(row)
            del self.over[:-KEPT]

    def drop(self, row: Row) -> None:
        """Give up a row, and what it knows."""
        self.living.remove(row)
        if row.group is not None:
            row.group.remove(row)
        self.groups = [group for group in self.groups if group.rows]

    def forget(self, adapter: int) -> None:
        """What was read by an adapter that is gone, and whose answers are over."""
        self.over = [row for row in self.over if row.adapter != adapter]

    def emptied(self) -> Conversations:
        """As large, without rows."""
        return Conversations(self.positions, remembers=self._remembers)

    def _make_room(self, positions: int) -> bool:
        """Forget rows of answers that are over until so many positions are free."""
        held = self.held
        while held + positions > self.positions and self.over:
            held -= self.over.pop(0).capacity
        return held + positions <= self.positions

    def _like(self, tokens: list[int], adapter: int | None) -> tuple[Row | None, int]:
        """The row that has most of a text's beginning, and how much."""
        best, most = None, WORTH - 1
        if self._remembers:
            for row in (*self.over, *self.living):
                length = min(_common(row.tokens, tokens), len(tokens) - 1)
                if length > most and row.adapter == adapter:
                    best, most = row, length
        return best, most


def _common(one: list[int], other: list[int]) -> int:
    """Tokens that both begin with."""
    same, end = 0, min(len(one), len(other))
    while same < end:
        middle = (same + end + 1) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            end = middle - 1
    return same
