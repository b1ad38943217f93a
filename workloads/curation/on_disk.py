"""Numbers that lie in files, so that memory holds those at hand alone: a corpus may have more documents than memory has room for.

What is mapped is the kernel's to write back and to drop: a process that is held to its memory goes on with it, only more slowly.
"""

from __future__ import annotations

import heapq
import itertools
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike

Array = np.ndarray[Any, Any]

AT_ONCE = 1 << 16
"""Records that are read together."""
WRITTEN_AT_ONCE = 512
"""Records that are written together: some hundreds of files may be written at once."""
SORTED_BYTES = 8 << 20
"""Of records that are sorted together; more are sorted in runs, which are then merged."""


def scratch(folder: Path, dtype: DTypeLike, count: int) -> Array:
    """An array of zeros in a file of ``folder`` that has no name, and is gone when the array is."""
    if not count:
        return np.empty(0, dtype=dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=(count,))


def mapped(path: Path, dtype: DTypeLike, mode: str = "r") -> Array:
    """The records of a file; with ``mode`` `r+` what is written to them is written to it."""
    if not path.stat().st_size:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode=mode)  # type: ignore[call-overload, no-any-return]


def chunks(path: Path, dtype: DTypeLike) -> Iterator[Array]:
    """The records of a file, some at a time."""
    with path.open("rb") as file:
        yield from parts(file, dtype)


def parts(file: IO[bytes], dtype: DTypeLike) -> Iterator[Array]:
    """The records of an open file from its beginning, some at a time."""
    file.seek(0)
    while len(part := np.fromfile(file, dtype=dtype, count=AT_ONCE)):
        yield part


def sort(file: IO[bytes], dtype: DTypeLike, folder: Path) -> None:
    """Sort the records of a file by their fields, the first of which rules; each is a number without a sign. In ``folder`` is room."""
    dtype = np.dtype(dtype)
    count, at_once = file.seek(0, 2) // dtype.itemsize, max(1, SORTED_BYTES // dtype.itemsize)
    runs = [(start, min(start + at_once, count)) for start in range(0, count, at_once)]
    for start, end in runs:
        run = _sorted(_read(file, dtype, start, end))
        file.seek(start * dtype.itemsize)
        run.tofile(file)
    if len(runs) > 1:
        with tempfile.TemporaryFile(dir=folder) as merged:
            _merge(file, dtype, runs, merged)
            for stream in (merged, file):
                stream.seek(0)
            shutil.copyfileobj(merged, file, SORTED_BYTES)
    file.flush()


def _read(file: IO[bytes], dtype: np.dtype[Any], start: int, end: int) -> Array:
    file.seek(start * dtype.itemsize)
    return np.fromfile(file, dtype=dtype, count=end - start)


def _sorted(records: Array) -> Array:
    """As bytes that begin with the most significant one, records with fields are compared at once: field by field it takes many times as long."""
    if records.dtype.fields is None:
        records.sort()
        return records
    words = records.astype(records.dtype.newbyteorder(">"))
    words.view(f"S{words.dtype.itemsize}").sort()
    return words.astype(records.dtype)


def _merge(file: IO[bytes], dtype: np.dtype[Any], runs: Sequence[tuple[int, int]], merged: IO[bytes]) -> None:
    size, big = dtype.itemsize, dtype.newbyteorder(">")
    buffered = max(1, SORTED_BYTES // size // len(runs))

    def words(start: int, end: int) -> Iterator[bytes]:
        for at in range(start, end, buffered):
            content = _read(file, dtype, at, min(at + buffered, end)).astype(big).tobytes()
            yield from (content[place : place + size] for place in range(0, len(content), size))

    ordered = heapq.merge(*itertools.starmap(words, runs))
    while content := b"".join(itertools.islice(ordered, AT_ONCE)):
        np.frombuffer(content, dtype=big).astype(dtype).tofile(merged)


def numbers(files: Iterable[Path], dtype: DTypeLike, folder: Path) -> Iterator[int]:
    """The numbers that files hold, in their order. In ``folder`` is room."""
    with tempfile.TemporaryFile(dir=folder) as together:
        for file in files:
            for part in chunks(file, dtype):
                part.tofile(together)
        sort(together, dtype, folder)
        for part in parts(together, dtype):
            yield from part.tolist()


def spans(count: int) -> Iterator[slice]:
    """Places 0 to ``count``, some at a time."""
    return (slice(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE))


class Records:
    """A file of records that is written a row at a time."""

    def __init__(self, file: Path | IO[bytes], dtype: DTypeLike) -> None:
        if isinstance(file, Path):
            file.parent.mkdir(parents=True, exist_ok=True)
            file = file.open("wb")
        self._file = file
        self._dtype = np.dtype(dtype)
        self._rows: list[Any] = []

    def write(self, row: Any) -> None:
        """``row`` is a number, or a tuple where records have fields."""
        self._rows.append(row)
        if len(self._rows) == WRITTEN_AT_ONCE:
            self.flush()

    def extend(self, rows: Sequence[Any] | Array) -> None:
        """Several rows."""
        self.flush()
        np.asarray(rows, dtype=self._dtype).tofile(self._file)

    def flush(self) -> None:
        """All rows so far are in the file."""
        np.array(self._rows, dtype=self._dtype).tofile(self._file)
        self._rows = []

    def close(self) -> None:
        self.flush()
        self._file.close()

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
