"""Rows that cannot be used: the first ends the job, or so many are passed over and counted."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from workloads.errors import DataError

DEFAULT_LIMIT = 100
"""Rows that are passed over at most where the spec gives no bound."""
PARTICULARS = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")
"""What differs between two rows that are bad for one reason."""
REASONS = 20
"""Reasons counted by themselves."""


class Choice(Protocol):
    """The fields of a spec that say what becomes of bad rows."""

    @property
    def on_bad_row(self) -> str: ...
    @property
    def max_bad_rows(self) -> int | None: ...


@dataclass
class BadRows:
    """What becomes of them, and what became of them."""

    limit: int = 0
    """So many are passed over; the next is an error."""
    counted: Counter[str] = field(default_factory=Counter)
    """Those passed over, by reason."""
    first: dict[str, str] = field(default_factory=dict)
    """Of each reason, the first: where it stands, and what was wrong."""

    @classmethod
    def of(cls, choice: Choice) -> BadRows:
        if choice.on_bad_row != "Skip":
            return cls()
        return cls(DEFAULT_LIMIT if choice.max_bad_rows is None else choice.max_bad_rows)

    def take(self, where: str, reason: str, cause: Exception | None = None) -> None:
        """Counts a row that cannot be used. Raises DataError where none may be passed over, or no more."""
        if self.counted.total() >= self.limit:
            more = f" (row {self.limit + 1} that cannot be used, and maxBadRows is {self.limit})" if self.limit else ""
            raise DataError(f"{where}: {reason}{more}") from cause
        kind = PARTICULARS.sub("…", reason)
        if kind not in self.counted and len(self.counted) >= REASONS:
            kind = "other reasons"
        self.counted[kind] += 1
        self.first.setdefault(kind, f"{where}: {reason}")

    def lines(self) -> list[str]:
        """For the log, a reason a line."""
        return [
            f"bad rows passed over: {count:,} (first: {self.first[kind]})" for kind, count in self.counted.most_common()
        ]
