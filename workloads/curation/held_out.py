"""Rows of evaluation sets, and documents that hold one: what is measured later must not have been read in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alpaca_operator.api.dataset import Decontamination, HeldOutSource, RawSource
from workloads.curation import archives, near, reading, shares
from workloads.curation.shares import RawFile
from workloads.data.corpus import Tally
from workloads.data.files import Unusable
from workloads.errors import DataError
from workloads.system import atomic
from workloads.system.describe import shown

Numbers = np.ndarray[Any, np.dtype[np.uint64]]


class HeldOut:
    """The runs of characters of all rows: numbers, sorted, each with its row."""

    def __init__(self, numbers: Numbers, rows: Numbers, share: float) -> None:
        self._numbers, self._rows = numbers, rows
        lengths = np.bincount(rows.astype(np.int64)) if len(rows) else np.empty(0, dtype=np.int64)
        self._needed = np.maximum(1, np.ceil(lengths * share))

    @classmethod
    def load(cls, file: Path, share: float) -> HeldOut:
        with np.load(file) as kept:
            return cls(kept["numbers"], kept["rows"], share)

    def is_in(self, runs: Numbers) -> bool:
        """Whether a document with these runs (sorted, each once) holds as much of some row as was asked for."""
        starts = np.searchsorted(self._numbers, runs, "left")
        counts = np.searchsorted(self._numbers, runs, "right") - starts
        met = counts > 0
        if not met.any():
            return False
        places = np.concatenate(
            [np.arange(start, start + count) for start, count in zip(starts[met], counts[met], strict=True)]
        )
        rows, found = np.unique(self._rows[places].astype(np.int64), return_counts=True)
        return bool((found >= self._needed[rows]).any())


def save(asked: Decontamination, inputs: Mapping[str, Any], file: Path) -> tuple[int, int, list[str]]:
    """Writes the runs of all rows to ``file``; returns how many rows there are, how many are too short to have any, and what was not read, a line a reason.

    Raises DataError and InputError for what cannot be read, and DataError where no row has a run.
    """
    numbers: list[Numbers] = []
    short, tally = 0, Tally()
    scratch = file.with_suffix(".unpacked")
    for index, source in enumerate(asked.against):
        for text in _texts(source, index, Path(inputs[f"decontaminate.against[{index}]"].path), scratch, tally):
            runs = near.runs(text, asked.ngram)
            if len(runs):
                numbers.append(runs)
            elif text.strip():
                short += 1
    if not numbers:
        raise DataError(
            f"decontaminate.against: no row has {asked.ngram} letters or digits: lower decontaminate.ngram, or name other sets"
        )
    rows = np.repeat(np.arange(len(numbers), dtype=np.uint32), [len(runs) for runs in numbers])
    together = np.concatenate(numbers)
    order = np.argsort(together, kind="stable")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = atomic.partial_beside(file)
    with partial.open("wb") as out:
        np.savez(out, numbers=together[order], rows=rows[order])
    partial.replace(file)
    return len(numbers), short, tally.problem_lines()


def _texts(source: HeldOutSource, index: int, path: Path, scratch: Path, tally: Tally) -> Iterator[str]:
    """Every text in every row; of a text file every line. In ``scratch`` archives are unpacked, a file at a time."""
    raw, field = RawSource(uri=source.uri), f"decontaminate.against[{index}]"
    files, left_out = shares.files_of(index, raw, path, field)
    tally.left_out += left_out
    for file in files:
        if file.kind not in archives.KINDS:
            yield from _texts_of(file, raw, tally)
            continue
        for name, member in archives.members(file.path, file.kind, scratch):
            where = f"{shown(file.path)}, {name}"
            inner = shares.raw_file(index, raw, member, name, field)
            if inner is None or inner.kind in archives.KINDS:
                tally.note("files of archives were not read", where)
                continue
            within = Tally()
            try:
                yield from _texts_of(inner, raw, within)
            except DataError as error:
                raise DataError(str(error).replace(shown(member), where)) from error
            for problem, count in within.problems.items():
                tally.note(problem, within.examples[problem].replace(shown(member), where), count)


def _texts_of(file: RawFile, raw: RawSource, tally: Tally) -> Iterator[str]:
    if file.kind in shares.WITHOUT_ROWS:
        for item in reading.documents(file, raw, tally):
            if isinstance(item, reading.Raw):
                yield from item.text.split("\n")
        return
    for place, record in reading.records(file, raw, tally):
        if isinstance(record, Unusable):
            raise DataError(f"{shown(file.path)}, {place}: {record.reason}")
        yield from _strings(record)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
