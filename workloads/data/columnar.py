"""Rows of Parquet, Arrow (as `datasets` saves it, and as IPC files) and Feather, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workloads.data.opening import COLUMNAR, ending, foreign
from workloads.errors import DataError
from workloads.system.describe import first_line, shown
from workloads.system.os_errors import unreadable

ENDINGS = (*COLUMNAR.values(), ".feather")
ROWS_AT_ONCE = 512
CONTINUED = b"\xff\xff\xff\xff"
"""What each message of an Arrow stream begins with."""


def records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with its number, from 1. Raises DataError for a file that is cut, damaged or none of these, InputError for one that cannot be
    read."""
    number = 0
    for batch, _ in batches(path):
        for record in _values(batch, path, number):
            number += 1
            yield number, record


def names(path: Path) -> list[str]:
    """Those of the columns. Raises as `records` does."""
    with _damage_told(path), path.open("rb") as stream:
        return _opened(path, stream)[0]


def batches(path: Path, column: str | None = None) -> Iterator[tuple[Any, float]]:
    """Record batches (pyarrow's), of all columns or of ``column`` alone, each with the share of the file that was read by then.

    Raises as `records` does, and NoColumn for a file without ``column``.
    """
    number = 0
    with _damage_told(path) as count, path.open("rb") as stream:
        there, read = _opened(path, stream)
        if column is not None and column not in there:
            raise NoColumn(there)
        if column is not None and there.count(column) > 1:
            raise DataError(f"{shown(path)}: the column {column!r} stands twice: rename or remove one of them")
        size = max(1, path.stat().st_size)
        for batch in read(None if column is None else [column]):
            number += len(batch)
            count.append(number)
            yield batch, min(1.0, stream.tell() / size)


class NoColumn(Exception):
    """The column that was asked for is none of ``names``."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))
        self.names = names


Read = Callable[[list[str] | None], Iterable[Any]]
"""Record batches of the columns that are named, or of all."""


def _opened(path: Path, stream: Any) -> tuple[list[str], Read]:
    """The names of the columns, and what reads them. A file without a sign of its own is what its name says."""
    import pyarrow
    from pyarrow import parquet

    magic = stream.read(8)
    stream.seek(0)
    if magic.startswith(b"ARROW1"):
        file = pyarrow.ipc.open_file(stream)
        numbers = range(file.num_record_batches)
        return file.schema.names, lambda columns: _selected(map(file.get_batch, numbers), columns)
    if magic.startswith(b"PAR1") or ending(path) == ".parquet":
        table = parquet.ParquetFile(stream)
        return table.schema_arrow.names, lambda columns: table.iter_batches(ROWS_AT_ONCE, columns=columns)
    if ending(path) not in ENDINGS and not magic.startswith(CONTINUED):
        raise DataError(f"{shown(path)}: neither Parquet nor Arrow: set format to what it is")
    batches = pyarrow.ipc.open_stream(stream)  # as `datasets` saves it
    return batches.schema.names, lambda columns: _selected(batches, columns)


def _selected(batches: Iterable[Any], columns: list[str] | None) -> Iterable[Any]:
    return batches if columns is None else (batch.select(columns) for batch in batches)


def _values(batch: Any, path: Path, number: int) -> Iterator[dict[str, Any]]:
    for start in range(0, len(batch), ROWS_AT_ONCE):
        with _damage_told(path, number):
            values: list[dict[str, Any]] = batch.slice(start, ROWS_AT_ONCE).to_pylist()
        yield from values


@contextmanager
def _damage_told(path: Path, number: int = 0) -> Iterator[list[int]]:
    """What Arrow says of a file, with the file and the row after which it says so (the last that is put into the list)."""
    import pyarrow

    count = [number]
    try:
        yield count
    except OSError as error:
        if error.errno is not None:
            raise unreadable(error, path) from error
        raise _damaged(path, count[-1], error) from error
    except (pyarrow.ArrowException, UnicodeDecodeError, ValueError) as error:
        raise _damaged(path, count[-1], error) from error


def _damaged(path: Path, number: int, error: Exception) -> DataError:
    """A file that Arrow cannot read is another one than it is called, or cut, or damaged."""
    kind = "Parquet" if ending(path) == COLUMNAR["Parquet"] else "Arrow"
    found = foreign(path, packed=False)
    if found is not None and found[0] not in COLUMNAR:
        return DataError(f"{shown(path)}: it is {found[0]}, not {kind}: {found[1]}")
    return DataError(
        f"{shown(path)}: cannot be read as {kind} after row {number}: {first_line(error)[:300]}: copy the file again"
    )
