"""Rows of a data set that cannot be used: what becomes of them."""

from typing import ClassVar, Literal

from pydantic import Field

from alpaca_operator.api.model import Spec
from alpaca_operator.api.rules import Rule


class RowPolicy(Spec):
    """What becomes of rows that cannot be used."""

    on_bad_row: Literal["Fail", "Skip"] = "Fail"
    """A row that cannot be read, or (of conversations) does not fit the template: `Fail` ends the job and names the first, `Skip` passes over them, and counts
    them by reason in the log and the report. Damage after which the rest of a file is uncertain always ends it."""
    max_bad_rows: int | None = Field(None, ge=1, le=10_000_000)
    """Most rows that `Skip` passes over in a part of the data; the next ends the job. Absent is 100."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.maxBadRows) || self.onBadRow == 'Skip'",
            holds=lambda rows: rows.max_bad_rows is None or rows.on_bad_row == "Skip",
            message="maxBadRows is only read with onBadRow Skip: set onBadRow to Skip, or remove maxBadRows",
        ),
    )
