"""Numbers that lie in files, so that memory holds those at hand alone: a corpus may have more documents than memory has room for.

What is mapped is the kernel's to write back and to drop: a process that is held to its memory goes on with it, only more slowly.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

Array = np.ndarray[Any, Any]

AT_ONCE = 1 << 16
"""Records that are read together."""
WRITTEN_AT_ONCE = 512
"""Records that are written together: some hundreds of files may be written at once."""


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
        while len(part := np.fromfile(file, dtype=dtype, count=AT_ONCE)):
            yield part


def spans(count: int) -> Iterator[slice]:
    """Places 0 to ``count``, some at a time."""
    return (slice(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE))


class Records:
    """A file of records that is written a row at a time."""

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._dtype = np.dtype(dtype)
        self._rows: list[Any] = []

    def write(self, row: Any) -> None:
        """``row`` is a number, or a tuple where records have fields."""
        self._rows.append(row)
        if len(self._rows) == WRITTEN_AT_ONCE:
            self._flush()

    def extend(self, rows: Sequence[Any] | Array) -> None:
        """Several rows."""
        self._flush()
        np.asarray(rows, dtype=self._dtype).tofile(self._file)

    def _flush(self) -> None:
        np.array(self._rows, dtype=self._dtype).tofile(self._file)
        self._rows = []

    def close(self) -> None:
        self._flush()
        self._file.close()

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
