"""Files of a data set to records: CSV, JSON and JSON lines in any encoding, Parquet, Arrow and Feather.

A file is a stream of records with the number by which a person finds each.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

from workloads.data import columnar, json_text
from workloads.data.columnar import ENDINGS as COLUMNAR_ENDINGS
from workloads.data.encodings import encoding_of, first_undecodable
from workloads.data.opening import ending, kind_of, must_be_text, open_bytes
from workloads.data.selection import SPLITS_FOR, Selection, archives, saved_split, select
from workloads.errors import DataError
from workloads.system.describe import shown

Record = Any
"""A row as its file has it: a dict of columns, or a list of utterances; or `Unusable`."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row that cannot be parsed, though those after it can."""

    reason: str
    """With the remedy."""


def records(path: Path) -> Iterator[tuple[str, Record]]:
    """What a file holds, with where it stands (``questions.csv, line 3``): for rows that are no conversations.

    Raises DataError for a file that is damaged, or none of the kinds that are read.
    """
    unit, _, numbered = open_records(path, "train")
    for number, record in numbered:
        where = f"{shown(path)}, {unit} {number}"
        if isinstance(record, Unusable):
            raise DataError(f"{where}: {record.reason}")
        yield where, record


ROWS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather")
"""Endings of the files that hold rows."""


def files_of(path: Path, part: str) -> Selection:
    """The data files below ``path`` that are for ``part``. Raises DataError where there is none."""
    chosen = select(path, ROWS, part)
    if not chosen.files:
        names = ", ".join(shown(name) for name in list(chosen.left_out)[:8]) or "nothing"
        raise DataError(
            f"{shown(path)}: no data file ({', '.join(sorted(ROWS))}, or a folder saved by datasets) among {names}: "
            f"name the file in uri{archives(chosen)}"
        )
    return chosen


# Files to records


def open_records(
    path: Path, part: str | None, kind: str | None = None, encoding: str | None = None
) -> tuple[str, str, Iterator[tuple[int, Record]]]:
    """What the numbers count (line or row), the encoding (of text), and the records with their numbers, from 1.

    Of an object that holds the rows of several splits those for ``part`` are read (train or validation), all of them one after another with None.

    ``kind`` (an ending of ROWS) and ``encoding`` (Python's name) say how the file is read, where it is not to be looked at for that.

    Raises DataError and InputError, also while the records are read, with the file's name and the place.
    """
    unit, used, records = _opened(path, part, kind, encoding)
    return unit, used, _damage_told(records, path, unit)


def _opened(
    path: Path, part: str | None, kind: str | None, encoding: str | None
) -> tuple[str, str, Iterator[tuple[int, Record]]]:
    kind = kind or kind_of(path, ROWS)
    if kind is None and not ending(path):
        kind = ".csv"
    if kind is None:
        raise DataError(
            f"{shown(path)}: neither its name nor its content is that of a data file ({', '.join(sorted(ROWS))}): convert it to one of these"
        )
    if kind in COLUMNAR_ENDINGS:
        return "row", "", _columns(path)
    must_be_text(path)
    encoding = encoding or encoding_of(path, open_bytes)
    if kind == ".json" and is_lines(path, encoding):
        kind = ".jsonl"
    if kind == ".json":
        return "row", encoding, _json(path, encoding, part)
    return "line", encoding, READERS[kind](path, encoding)


def _damage_told(records: Iterable[tuple[int, Record]], path: Path, unit: str) -> Iterator[tuple[int, Record]]:
    """The same records; whatever is wrong with the text itself is told with its name and the place."""
    try:
        for number, record in records:
            yield number, _without_nan(record)
    except _Damage as error:
        raise DataError(f"{shown(path)}, {unit} {error.number}: {error.reason}") from error
    except UnicodeDecodeError as error:
        with open_bytes(path) as stream:
            line, bad = first_undecodable(stream, error.encoding)
        raise DataError(
            f"{shown(path)}, line {line}: the bytes {bad} are not {error.encoding}, as the rest of the file is: save the file as UTF-8"
        ) from error


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return value


class _Damage(Exception):
    """A place in a file that cannot be parsed."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number, self.reason = number, reason


def _open_text(path: Path, encoding: str, newline: str | None = None, errors: str = "strict") -> io.TextIOWrapper:
    return io.TextIOWrapper(open_bytes(path), encoding=encoding, newline=newline, errors=errors)


SEPARATOR = re.compile(r'"?sep=(.)"?\s*')
"""The first line by which Excel says what separates values."""


def _csv(path: Path, encoding: str, delimiter: str = ",") -> Iterator[tuple[int, Record]]:
    csv.field_size_limit(sys.maxsize)  # a row may hold a long conversation; Python's limit is 128 KB
    with _open_text(path, encoding, newline="") as stream:
        head, before = stream.readline(), 0
        if said := SEPARATOR.fullmatch(head):
            delimiter, head, before = said[1], stream.readline(), 1
        elif delimiter not in head:
            delimiter = next((other for other in "\t;" if other in head), delimiter)
        # An open quote would swallow the rest of the file without `strict`.
        reader = csv.reader(chain([head], stream), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            start = reader.line_num + before + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise _Damage(
                    start,
                    f"not CSV ({error}): a quote is not closed, or one inside a value is not doubled; mend this row",
                ) from error
            if not cells:
                continue
            if header is None:
                header = [name.strip() for name in cells]
                check_names(header, start)
            else:
                yield start, _row_of(header, cells, delimiter)


def _row_of(header: list[str], cells: list[str], delimiter: str) -> Record:
    if len(cells) != len(header):
        return Unusable(
            f"{len(cells)} values where the header names {len(header)} ({', '.join(header)[:200]}): "
            f"put values with {SEPARATORS.get(delimiter, delimiter)} or line breaks in double quotes"
        )
    row = dict(zip(header, cells, strict=True))
    # Spreadsheets write columns without a name, which are empty.
    if row.get("") is not None and any(cell for name, cell in zip(header, cells, strict=True) if not name):
        return Unusable("a value in a column that has no name: name it in the header, or remove the value")
    row.pop("", None)
    return row


SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def check_names(names: Sequence[str], number: int = 1) -> None:
    """Refuses columns of which two have one name: only one of them could be read."""
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise _Damage(number, f"the column {twice!r} stands twice: rename or remove one of them")


def _tsv(path: Path, encoding: str) -> Iterator[tuple[int, Record]]:
    return _csv(path, encoding, "\t")


def _jsonl(path: Path, encoding: str) -> Iterator[tuple[int, Record]]:
    with _open_text(path, encoding, newline="\n") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.isspace():
                yield number, _line(line)


def _line(line: str) -> Record:
    try:
        return json_text.loads(line)
    except json.JSONDecodeError as error:
        return Unusable(f"not JSON ({error.msg} at character {error.pos + 1}): mend or remove this line")
    except (RecursionError, ValueError) as error:  # nested too deeply, a number of thousands of digits, a name twice
        return Unusable(f"not usable JSON ({_one_line(error)}): mend or remove this line")


def is_lines(path: Path, encoding: str) -> bool:
    """Whether a .json file is JSON Lines: its first line is a whole record."""
    with _open_text(path, encoding, errors="replace") as stream:  # damage is told by the reader, with its place
        line = ""
        while not line.strip():
            line = stream.readline(1 << 20)
            if not line:
                return False
        rest = any(other.strip() for other in iter(lambda: stream.readline(1 << 20), ""))
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return rest and (isinstance(first, dict) or (isinstance(first, list) and all(isinstance(x, str) for x in first)))


HOLDERS = ("data", "rows", "examples", "instances")
"""Keys under which a file that is one JSON object keeps its rows; or under the names of splits."""


def _json(path: Path, encoding: str, part: str | None = "train") -> Iterator[tuple[int, Record]]:
    """The items of an array, objects one after another (Math23K), or the rows that one object holds."""
    number = 0
    pending: Record = None
    for value in _json_values(path, encoding):
        if number == 1:
            yield 1, pending
        number += 1
        if number == 1:
            pending = value
        else:
            yield number, value
    if number == 1:
        held = _held(path, pending, part) if isinstance(pending, dict) else None
        yield from enumerate(held, start=1) if held is not None else [(1, pending)]


def _held(path: Path, value: dict[str, Any], part: str | None) -> list[Record] | None:
    """The rows that an object holds, where it does. Raises DataError where two of its lists could be them."""
    named = [name for names in SPLITS_FOR.values() for name in names]
    lists = [name for name in (*HOLDERS, *named) if isinstance(value.get(name), list)]
    if lists and all(name in named for name in lists):
        if part is None:
            return [row for name in value if name in lists for row in value[name]]
        return cast("list[Record]", value[saved_split(path, lists, part)])
    if len(lists) > 1:
        raise DataError(f"{path}: rows could be its {' or its '.join(lists)}: keep one of them in the file")
    return cast("list[Record]", value[lists[0]]) if lists else None


def _json_values(path: Path, encoding: str, chunk: int = 1 << 20) -> Iterator[Record]:
    """Items of a top-level array, or values one after another, holding no more than one item and one chunk in memory."""
    decoder = json_text.DECODER
    with _open_text(path, encoding) as stream:
        text, at, ended, count, inside, closed, passed = "", 0, False, 0, False, False, 1

        def damage(error: json.JSONDecodeError) -> _Damage:
            line = passed + text.count("\n", 0, error.pos)
            return _Damage(count + 1, f"not JSON ({error.msg} at line {line}): mend the file from there")

        while True:
            while at < len(text) and (text[at].isspace() or (text[at] == "," and count and not closed)):
                at += 1
            if at < len(text) and closed:
                line, rest = passed + text.count("\n", 0, at), text[at : at + 20]
                raise _Damage(
                    count + 1,
                    f"the array ends before line {line}, which goes on with {rest!r}: where two files were joined, keep them as two files of "
                    "a folder, or write one array",
                )
            if at < len(text) and not inside and count == 0 and text[at] == "[":
                inside, at = True, at + 1
                continue
            if inside and at < len(text) and text[at] == "]":
                inside, closed, at = False, True, at + 1
                continue
            error = None
            if at < len(text):
                try:
                    value, end = decoder.raw_decode(text, at)
                    # A number at the very end of what was read may go on.
                    if end < len(text) or ended:
                        at, count = end, count + 1
                        yield value
                        continue
                except json.JSONDecodeError as caught:
                    error = caught
                except (RecursionError, ValueError) as caught:  # nested too deeply, or a number of thousands of digits
                    reason = f"not usable JSON ({_one_line(caught)}): mend or remove this row"
                    raise _Damage(count + 1, reason) from caught
            # An error far from the end of what was read is one; nearer, the text may only be cut off there.
            if error is not None and (
                ended or (error.pos < len(text) - CUT_OFF and not error.msg.startswith("Unterminated string"))
            ):
                raise damage(error)
            if ended:
                if inside:
                    raise _Damage(count + 1, "not JSON (the array is not closed): mend the file from there")
                return
            more = stream.read(max(chunk, len(text) - at))  # doubling: an item of any size is parsed a few times only
            ended = not more
            passed += text.count("\n", 0, at)
            text, at = text[at:] + more, 0


CUT_OFF = 16
"""Characters at the end of a text that one cut-off literal or escape (``\\ud83d\\ude00``) can take."""


def _columns(path: Path) -> Iterator[tuple[int, Record]]:
    """Rows of Parquet, Arrow and Feather."""
    check_names(columnar.names(path))
    for number, record in columnar.records(path):
        yield number, _without_padding(record)


def _without_padding(value: Any, depth: int = 0) -> Any:
    """Below the turns of a row, Arrow gives each object the names of all others, with null where it has none itself."""
    if isinstance(value, dict):
        return {
            name: _without_padding(part, depth + 1) for name, part in value.items() if depth < 2 or part is not None
        }
    if isinstance(value, list):
        return [_without_padding(part, depth) for part in value]
    return value


READERS: dict[str, Callable[..., Iterator[tuple[int, Record]]]] = {
    ".csv": _csv, ".tsv": _tsv, ".json": _json, ".jsonl": _jsonl, ".ndjson": _jsonl,
}  # fmt: skip


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
