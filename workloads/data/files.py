"""Files of a data set to records: which files are read for what, and CSV, JSON, JSONL, Parquet and saved `datasets` in any encoding.

A file is a stream of records with the number by which a person finds each.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from alpaca_operator.api import contract
from workloads.data.encodings import encoding_of, first_undecodable
from workloads.errors import DataError, InputError

Record = Any
"""A row as its file has it: a dict of columns, or a list of utterances."""


def records(path: Path) -> Iterator[tuple[str, Record]]:
    """What a file holds, with where it stands (``questions.csv, line 3``): for rows that are no conversations.

    Raises DataError for a file that is damaged, or none of the kinds that are read.
    """
    unit, _, numbered = open_records(path, "train")
    for number, record in numbered:
        yield f"{path}, {unit} {number}", record


# Which files


SPLITS = re.compile(r"(?<![a-z])(train|training|validation|valid|val|dev|eval|test)(?![a-z])", re.IGNORECASE)
"""Names of splits in file names, as the Hugging Face hub reads them."""
SPLITS_FOR = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev", "eval", "test")}
"""The names of the splits that are read for training and for validation, those that are preferred first."""
DESCRIPTIONS = frozenset(
    ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", contract.ARTIFACT_FILE)
)
"""JSON that describes a data set, and holds none of its rows."""


def visible(folder: Path) -> list[Path]:
    """All files below ``folder`` that are not hidden, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def of_part(files: Sequence[Path], folder: Path, part: str) -> list[Path]:
    """The files of a folder that are for ``part``; all of them, unless some say that they are and others that they are not."""
    named = {
        file: match[1].lower()
        for file in files
        if file != folder and (match := SPLITS.search(str(file.relative_to(folder))))
    }
    fitting = [name for name in named.values() if name in SPLITS_FOR[part]]
    if not fitting or len(fitting) == len(files):
        return list(files)
    # Where there are both, the rows for validation are not those of the test.
    wanted = SPLITS_FOR[part] if part == "train" or set(fitting) == {"test"} else SPLITS_FOR[part][:-1]
    return [file for file in files if named.get(file, wanted[0]) in wanted]


def saved_split(path: Path, names: Sequence[str], part: str) -> str:
    """Which split of a data set that was saved with several is for ``part``. Raises DataError where none says that it is."""
    wanted = next((name for name in SPLITS_FOR[part] if name in names), names[0] if len(names) == 1 else None)
    if wanted is None:
        raise DataError(
            f"{path}: saved with the splits {', '.join(names)}: name one of them in uri, such as {path / names[0]}"
        )
    return wanted


def files_of(path: Path) -> list[Path]:
    """The data files below ``path``, sorted; a folder saved by `datasets` counts as one."""
    if path.is_file() or _is_saved_dataset(path):
        return [path]
    if not path.is_dir():
        raise InputError(f"dataset: nothing at {path}: check the uri")
    below = visible(path)
    saved = [folder for folder in sorted({file.parent for file in below}) if _is_saved_dataset(folder)]
    saved = [folder for folder in saved if not any(other in folder.parents for other in saved)]
    loose = [file for file in below if not any(folder in file.parents for folder in saved)]
    files = sorted([*saved, *(file for file in loose if _suffix(file) in READERS and file.name not in DESCRIPTIONS)])
    if not files:
        names = ", ".join(file.name for file in below[:8]) or "nothing"
        raise DataError(
            f"{path}: no data file ({', '.join(sorted(READERS))}, or a folder saved by datasets) among {names}: name the file in uri"
        )
    return files


def _is_saved_dataset(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


# Files to records


def open_records(path: Path, part: str) -> tuple[str, str, Iterator[tuple[int, Record]]]:
    """What the numbers count (line or row), the encoding (of text), and the records with their numbers, from 1.

    Raises DataError, also while the records are read, with the file's name and the place.
    """
    unit, encoding, records = _opened(path, part)
    return unit, encoding, _damage_told(records, path, unit)


def _opened(path: Path, part: str) -> tuple[str, str, Iterator[tuple[int, Record]]]:
    if path.is_dir():
        return "row", "", _saved_dataset(path, part)
    kind = _suffix(path)
    if kind not in READERS:
        kind = _sniff(path)
    if kind in BINARY:
        return "row", "", READERS[kind](path)
    try:
        encoding = encoding_of(path, open_bytes)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip stream is damaged ({error}): copy the file again") from error
    if kind == ".json" and _is_lines(path, encoding):
        kind = ".jsonl"
    return "row" if kind == ".json" else "line", encoding, READERS[kind](path, encoding)


def _damage_told(records: Iterable[tuple[int, Record]], path: Path, unit: str) -> Iterator[tuple[int, Record]]:
    """The same records; whatever is wrong with the file itself is told with its name and the place."""
    number = 0
    try:
        for number, record in records:
            yield number, record
    except _Damage as error:
        raise DataError(f"{path}, {unit} {error.number}: {error.reason}") from error
    except UnicodeDecodeError as error:
        with open_bytes(path) as stream:
            line, bad = first_undecodable(stream, error.encoding)
        raise DataError(
            f"{path}, line {line}: the bytes {bad} are not {error.encoding}, as the rest of the file is: save the file as UTF-8"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}, after {unit} {number}: the gzip stream is damaged ({error}): copy the file again"
        ) from error


class _Damage(Exception):
    """A place in a file that cannot be parsed."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number, self.reason = number, reason


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _sniff(path: Path) -> str:
    """The kind of a file whose name does not say it."""
    with open_bytes(path) as stream:
        head = stream.read(4096)
    if head.startswith(b"PAR1"):
        return ".parquet"
    if head.startswith(b"ARROW1"):
        return ".arrow"
    if head.lstrip(codecs.BOM_UTF8 + b" \r\n\t")[:1] in (b"{", b"["):
        return ".json"
    if not _suffix(path):
        return ".csv"
    raise DataError(
        f"{path}: neither its name nor its content is that of a data file ({', '.join(sorted(READERS))}): convert it to one of these"
    )


def open_bytes(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked where it is gzipped, whatever its name."""
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(path, "rb")) if packed else path.open("rb")


def _open_text(path: Path, encoding: str, newline: str | None = None, errors: str = "strict") -> io.TextIOWrapper:
    return io.TextIOWrapper(open_bytes(path), encoding=encoding, newline=newline, errors=errors)


def _csv(path: Path, encoding: str, delimiter: str = ",") -> Iterator[tuple[int, Record]]:
    csv.field_size_limit(sys.maxsize)  # a row may hold a long conversation; Python's limit is 128 KB
    with _open_text(path, encoding, newline="") as stream:
        head = stream.readline()
        if delimiter not in head:
            delimiter = next((other for other in "\t;" if other in head), delimiter)
        # An open quote would swallow the rest of the file without `strict`.
        reader = csv.reader(_chain(head, stream), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            start = reader.line_num + 1
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
            elif len(cells) != len(header):
                raise _Damage(
                    start,
                    f"{len(cells)} values where the header names {len(header)} ({', '.join(header)[:200]}): "
                    "put values with commas or line breaks in double quotes",
                )
            else:
                yield start, dict(zip(header, cells, strict=True))


def _chain(head: str, stream: io.TextIOWrapper) -> Iterator[str]:
    yield head
    yield from stream


def _tsv(path: Path, encoding: str) -> Iterator[tuple[int, Record]]:
    return _csv(path, encoding, "\t")


def _jsonl(path: Path, encoding: str) -> Iterator[tuple[int, Record]]:
    with _open_text(path, encoding, newline="\n") as stream:
        for number, line in enumerate(stream, start=1):
            if line.isspace():
                continue
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise _Damage(
                    number, f"not JSON ({error.msg} at character {error.pos + 1}): mend or remove this line"
                ) from error
            except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
                raise _Damage(number, f"not usable JSON ({_one_line(error)}): mend or remove this line") from error


def _is_lines(path: Path, encoding: str) -> bool:
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
    except ValueError:
        return False
    return rest and (isinstance(first, dict) or (isinstance(first, list) and all(isinstance(x, str) for x in first)))


HOLDERS = ("data", "train", "rows", "examples", "instances")
"""Keys under which a file that is one JSON object keeps its rows."""


def _json(path: Path, encoding: str) -> Iterator[tuple[int, Record]]:
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
        held = (
            next((pending[key] for key in HOLDERS if isinstance(pending.get(key), list)), None)
            if isinstance(pending, dict)
            else None
        )
        yield from enumerate(held, start=1) if held is not None else [(1, pending)]


def _json_values(path: Path, encoding: str, chunk: int = 1 << 20) -> Iterator[Record]:
    """Items of a top-level array, or values one after another, holding no more than one item and one chunk in memory."""
    decoder = json.JSONDecoder()
    with _open_text(path, encoding) as stream:
        text, at, ended, count, inside, passed = "", 0, False, 0, False, 1

        def damage(error: json.JSONDecodeError) -> _Damage:
            line = passed + text.count("\n", 0, error.pos)
            return _Damage(count + 1, f"not JSON ({error.msg} at line {line}): mend the file from there")

        while True:
            while at < len(text) and (text[at].isspace() or (text[at] == "," and count)):
                at += 1
            if at < len(text) and not inside and count == 0 and text[at] == "[":
                inside, at = True, at + 1
                continue
            if inside and at < len(text) and text[at] == "]":
                return
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


def _parquet(path: Path) -> Iterator[tuple[int, Record]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=512):
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise _Damage(number + 1, f"not Parquet ({_one_line(error)}): copy the file again") from error


def _arrow(path: Path) -> Iterator[tuple[int, Record]]:
    import datasets

    return _rows(datasets.Dataset.from_file(str(path)))


def _saved_dataset(path: Path, part: str) -> Iterator[tuple[int, Record]]:
    import datasets

    saved = datasets.load_from_disk(str(path))
    if isinstance(saved, datasets.DatasetDict):
        saved = saved[saved_split(path, list(saved), part)]
    return _rows(saved)


def _rows(saved: Any) -> Iterator[tuple[int, Record]]:
    number = 0
    for batch in saved.with_format("arrow").iter(batch_size=512):
        for record in batch.to_pylist():
            number += 1
            yield number, record


READERS: dict[str, Callable[..., Iterator[tuple[int, Record]]]] = {
    ".csv": _csv, ".tsv": _tsv, ".json": _json, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet, ".arrow": _arrow,
}  # fmt: skip
BINARY = (".parquet", ".arrow")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
