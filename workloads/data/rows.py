"""The conversations of files, one after the other: where each stands, and what was decided and mended on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from alpaca_operator.api.conversations import DataSource
from workloads.data.bad_rows import BadRows
from workloads.data.converter import LOOKED_AT, Converter
from workloads.data.files import Unusable, files_of, open_records
from workloads.data.turns import Message
from workloads.system.describe import shown


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation and where it was read."""

    file: str
    number: int
    messages: tuple[Message, ...]
    unit: str = "row"
    """What ``number`` counts: the lines of a text file, or the rows of others, from 1."""
    tools: tuple[dict[str, Any], ...] = ()
    """Those that the conversation may call, in OpenAI's form."""

    @property
    def where(self) -> str:
        """For messages: ``train.csv, line 12``."""
        return f"{self.file}, {self.unit} {self.number}"


@dataclass
class Reading:
    """What was decided and mended while reading."""

    files: list[str] = field(default_factory=list)
    """A sentence per file: the layout, how it was chosen, the encoding."""
    not_read: list[str] = field(default_factory=list)
    """What folders hold besides, a sentence per reason."""
    read: int = 0
    repaired: Counter[str] = field(default_factory=Counter)
    bad: BadRows = field(default_factory=BadRows)
    """What becomes of rows that cannot be used, and what became of them."""


def read(sources: Sequence[tuple[DataSource, Path]], reading: Reading, part: str = "train") -> Iterator[Row]:
    """Every conversation of every source, in order. Raises DataError naming file, row, reason and remedy for the first bad one, or for the
    one after as many as ``reading.bad`` passes over.

    ``part`` is what the rows are for: of a folder that holds several splits of a data set, ``train`` does not read the test set.
    """
    for source, path in sources:
        chosen = files_of(path, part)
        reading.not_read += chosen.lines()
        for file in chosen.files:
            yield from _read_file(source, file, reading, part)


def _read_file(source: DataSource, path: Path, reading: Reading, part: str) -> Iterator[Row]:
    unit, encoding, records = open_records(path, part)
    first = list(islice(records, LOOKED_AT))
    file = shown(path)
    if not first:
        reading.files.append(f"{file}: no rows")
        return
    converter = Converter.decided(
        source.format, source.columns, [record for _, record in first], file, reading.repaired
    )
    if converter.layout is not None:
        reading.files.append(
            f"{file}: {converter.name} ({converter.why})"
            + (f", {encoding}" if encoding else "")
            + (f"; not read: {converter.unread}" if converter.unread else "")
        )
    for number, record in chain(first, records):
        where = f"{file}, {unit} {number}"
        if isinstance(record, Unusable):
            reading.bad.take(where, record.reason)
            continue
        try:
            messages, tools = converter.convert(record, unit)
        except ValueError as error:
            reading.bad.take(where, str(error), error)
        else:
            reading.read += 1
            yield Row(file, number, messages, unit, tools)
