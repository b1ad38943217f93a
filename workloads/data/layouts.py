"""Conversations in files: CSV, JSON, JSONL, Parquet and saved `datasets`, in any encoding, one reader per layout of a row.

A file is a stream of records with the number by which a person finds each. The layout of a row is named by the spec or decided by the
columns of the file's first record; a record becomes messages, or the reason why it cannot.
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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from alpaca_operator.api.sft import DataSource
from workloads.errors import DataError, InputError, SpecError

Messages = list[dict[str, str]]
Record = Any
"""A row as its file has it: a dict of columns, or a list of utterances."""


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation and where it was read."""

    file: str
    number: int
    messages: tuple[dict[str, str], ...]
    """``role`` (system, user or assistant) and ``content``; ``weight: "0"`` on an answer that is not trained."""
    unit: str = "row"
    """What ``number`` counts: the lines of a text file, or the rows of others, from 1."""

    @property
    def where(self) -> str:
        """For messages: ``train.csv, line 12``."""
        return f"{self.file}, {self.unit} {self.number}"


@dataclass
class Reading:
    """What was decided and mended while reading."""

    files: list[str] = field(default_factory=list)
    """A sentence per file: the layout, how it was chosen, the encoding."""
    read: int = 0
    repaired: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Layout:
    """One way to write conversations in rows."""

    columns: tuple[str, ...]
    """Names that ``columns`` in the spec may map, those a row must have first."""
    required: int
    matches: Callable[[Record], bool]
    convert: Callable[[Record, Counter[str]], Messages]
    """Raises ValueError with the reason why a row cannot be used."""


def read(sources: Sequence[tuple[DataSource, Path]], reading: Reading, part: str = "train") -> Iterator[Row]:
    """Every conversation of every source, in order. Raises DataError naming file, row, reason and remedy for the first bad one.

    ``part`` is what the rows are for: of a folder that holds several splits of a data set, ``train`` does not read the test set.
    """
    for source, path in sources:
        files = files_of(path)
        chosen = _of_part(files, path, part)
        if len(chosen) < len(files):
            names = ", ".join(str(file.relative_to(path)) for file in files if file not in chosen)
            reading.files.append(f"{path}: other splits not read: {names[:500]}")
        for file in chosen:
            yield from _read_file(source, file, reading, part)


def records(path: Path) -> Iterator[tuple[str, Record]]:
    """What a file holds, with where it stands (``questions.csv, line 3``): for rows that are no conversations.

    Raises DataError for a file that is damaged, or none of the kinds that are read.
    """
    unit, _, opened = _open(path, "train")
    for number, record in _numbered(opened, path, unit):
        yield f"{path}, {unit} {number}", record


SPLITS = re.compile(r"(?<![a-z])(train|training|validation|valid|val|dev|eval|test)(?![a-z])", re.IGNORECASE)
"""Names of splits in file names, as the Hugging Face hub reads them."""
SPLITS_FOR = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev", "eval", "test")}


def _of_part(files: list[Path], folder: Path, part: str) -> list[Path]:
    """The files of a folder that are for ``part``; all of them, unless some say that they are and others that they are not."""
    named = {
        file: found[1].lower()
        for file in files
        if file != folder and (found := SPLITS.search(str(file.relative_to(folder))))
    }
    fitting = [name for name in named.values() if name in SPLITS_FOR[part]]
    if not fitting or len(fitting) == len(files):
        return files
    # Where there are both, the rows for validation are not those of the test.
    wanted = SPLITS_FOR[part] if part == "train" or set(fitting) == {"test"} else SPLITS_FOR[part][:-1]
    return [file for file in files if named.get(file, wanted[0]) in wanted]


def files_of(path: Path) -> list[Path]:
    """The data files below ``path``, sorted; a folder saved by `datasets` counts as one."""
    if path.is_file() or _is_saved_dataset(path):
        return [path]
    if not path.is_dir():
        raise InputError(f"dataset: nothing at {path}: check the uri")
    visible = sorted(
        p
        for p in path.rglob("*")
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(path).parts)
    )
    saved = [folder for folder in sorted({p.parent for p in visible}) if _is_saved_dataset(folder)]
    saved = [folder for folder in saved if not any(other in folder.parents for other in saved)]
    loose = [p for p in visible if not any(folder in p.parents for folder in saved)]
    files = sorted([*saved, *(p for p in loose if _suffix(p) in READERS and p.name not in NOT_ROWS)])
    if not files:
        names = ", ".join(p.name for p in visible[:8]) or "nothing"
        raise DataError(
            f"{path}: no data file ({', '.join(sorted(READERS))}, or a folder saved by datasets) among {names}: name the file in uri"
        )
    return files


NOT_ROWS = {"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "artifact.json"}
"""JSON that describes a data set."""


def _read_file(source: DataSource, path: Path, reading: Reading, part: str) -> Iterator[Row]:
    unit, encoding, opened = _open(path, part)
    records = _numbered(opened, path, unit)
    first = list(islice(records, LOOKED_AT))
    file = str(path)
    if not first:
        reading.files.append(f"{file}: no rows")
        return
    name, columns, chosen = source.format, dict(source.columns), "named in the spec"
    if name == "Auto":
        name, columns, chosen = _detect([record for _, record in first], columns, file)
    layout = LAYOUTS[name]
    _check_columns(columns, name, layout)
    reading.files.append(f"{file}: {name} ({chosen})" + (f", {encoding}" if encoding else ""))
    for number, record in chain(first, records):
        where = f"{file}, {unit} {number}"
        try:
            record = _rename(record, columns)
            messages = [_clean(message, reading.repaired) for message in layout.convert(record, reading.repaired)]
        except _MissingColumn as error:
            raise DataError(
                f"{where}: no {error} for format {name}; columns found: {_columns(record)}: set format, or columns to the file's own names"
            ) from error
        except ValueError as error:
            raise DataError(f"{where}: {error}: mend or remove this {unit}") from error
        reading.read += 1
        yield Row(file, number, tuple(messages), unit)


LOOKED_AT = 64
"""First rows of a file by which its layout is decided: the very first may be empty."""


def _numbered(records: Iterable[tuple[int, Record]], path: Path, unit: str) -> Iterator[tuple[int, Record]]:
    """The same records; whatever is wrong with the file itself is told with its name and the place."""
    number = 0
    try:
        for number, record in records:
            yield number, record
    except _Damage as error:
        raise DataError(f"{path}, {unit} {error.number}: {error.reason}") from error
    except UnicodeDecodeError as error:
        line, bad = _undecodable(path, error.encoding)
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


class _MissingColumn(ValueError):
    """A row lacks a column that its layout needs."""


# Files to records


def _open(path: Path, part: str) -> tuple[str, str, Iterator[tuple[int, Record]]]:
    """Unit of the numbers, encoding (of text), records."""
    if path.is_dir():
        return "row", "", _saved_dataset(path, part)
    kind = _suffix(path)
    if kind not in READERS:
        kind = _sniff(path)
    if kind in BINARY:
        return "row", "", READERS[kind](path)
    encoding = encoding_of(path)
    if kind == ".json" and _is_lines(path, encoding):
        kind = ".jsonl"
    return "row" if kind == ".json" else "line", encoding, READERS[kind](path, encoding)


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _sniff(path: Path) -> str:
    """The kind of a file whose name does not say it."""
    with _bytes(path) as stream:
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


def _bytes(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


def _text(path: Path, encoding: str, newline: str | None = None) -> io.TextIOWrapper:
    return io.TextIOWrapper(_bytes(path), encoding=encoding, newline=newline)


SAMPLE = 1 << 18
"""Bytes from which an encoding is guessed."""
DAMAGED = 0.05
"""Below this share of undecodable bytes among the non-ASCII ones, a file is UTF-8 with damage rather than another encoding."""
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
CHINESE = ["gb18030", "big5", "big5hkscs"]
"""What a Chinese file is that is not Unicode; GB18030 contains GBK and GB2312."""


def encoding_of(path: Path) -> str:
    """By its byte order mark; else UTF-8 if all of it decodes so; else what charset-normalizer finds likely."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with _bytes(path) as stream:
            head = stream.read(4)
            for mark, name in BOMS:
                if head.startswith(mark):
                    return name
            decoder.decode(head)
            while chunk := stream.read(1 << 20):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return _guess(_foreign_lines(path), path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip stream is damaged ({error}): copy the file again") from error
    return "utf-8"


def _foreign_lines(path: Path) -> bytes:
    """The first lines with anything but ASCII: what tells encodings apart may come late in a file."""
    found = bytearray()
    with _bytes(path) as stream:
        while len(found) < SAMPLE and (line := stream.readline(SAMPLE)):
            if not line.isascii():
                found += line
    return bytes(found)


def _undecodable(path: Path, encoding: str) -> tuple[int, str]:
    """Line and bytes of the first place that does not decode."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    with _bytes(path) as stream:
        while True:
            chunk = stream.read(1 << 20)
            try:
                line += decoder.decode(chunk, final=not chunk).count("\n")
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(encoding)
                return line + before.count("\n"), error.object[error.start : error.end].hex(" ")
            if not chunk:
                return line, ""


def _guess(sample: bytes, path: Path) -> str:
    from charset_normalizer import from_bytes

    text = sample.decode("utf-8", errors="replace")
    wrong, foreign = text.count("\ufffd"), sum(not character.isascii() for character in text)
    if wrong <= max(1, DAMAGED * foreign) and foreign > wrong:
        return "utf-8"
    for isolation in (CHINESE, None):
        best = from_bytes(sample, cp_isolation=isolation).best()
        if best is not None:
            return "gb18030" if best.encoding in ("gb2312", "gbk", "gb18030") else best.encoding
    raise DataError(f"{path}: its encoding is not known: save the file as UTF-8")


def _csv(path: Path, encoding: str, delimiter: str = ",") -> Iterator[tuple[int, Record]]:
    csv.field_size_limit(sys.maxsize)  # a row may hold a long conversation; Python's limit is 128 KB
    with _text(path, encoding, newline="") as stream:
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
    with _text(path, encoding, newline="\n") as stream:
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
    with _text(path, encoding) as stream:
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
    with _text(path, encoding) as stream:
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


def _is_saved_dataset(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


def _saved_dataset(path: Path, part: str) -> Iterator[tuple[int, Record]]:
    import datasets

    saved = datasets.load_from_disk(str(path))
    if isinstance(saved, datasets.DatasetDict):
        names = [name for name in SPLITS_FOR[part] if name in saved] or (list(saved) if len(saved) == 1 else [])
        if not names:
            raise DataError(
                f"{path}: saved with the splits {', '.join(saved)}: name one of them in uri, such as {path / next(iter(saved))}"
            )
        saved = saved[names[0]]
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


# Records to messages


def _detect(records: list[Record], columns: dict[str, str], file: str) -> tuple[str, dict[str, str], str]:
    """Layout, column mapping, and how it was chosen: by the first record that tells."""
    for record in records:
        renamed = _rename(record, columns)
        for name, layout in LAYOUTS.items():
            if layout.matches(renamed):
                return name, columns, f"by {_why(renamed, layout)}"
        if isinstance(record, dict) and not columns:
            for question, answer in PAIRS:
                if question in record and answer in record:
                    return (
                        "Alpaca",
                        {"instruction": question, "output": answer},
                        f"{question} as instruction, {answer} as output",
                    )
            for column in TURN_COLUMNS:
                if _is_turns(column, "role")(record):
                    return "Messages", {"messages": column}, f"{column} as messages"
    known = "; ".join(f"{name}: {', '.join(layout.columns[: layout.required])}" for name, layout in LAYOUTS.items())
    raise DataError(
        f"{file}: no known layout fits its columns: {_columns(records[0])}. Name the layout in format and map its columns, such as "
        f"columns: {{instruction: 问题, output: 答案}}. Layouts: {known}"
    )


def _why(record: Record, layout: Layout) -> str:
    if not isinstance(record, dict):
        return "its lists of utterances"
    present = [name for name in layout.columns if name in record]
    return f"column{'s' if len(present) > 1 else ''} {', '.join(present)}"


PAIRS = (
    ("instruction", "response"), ("prompt", "response"), ("prompt", "completion"), ("prompt", "output"), ("prompt", "answer"),
    ("question", "answer"), ("question", "response"), ("query", "response"), ("query", "answer"), ("问题", "答案"), ("问题", "回答"),
    ("问", "答"), ("指令", "输出"),
)  # fmt: skip
"""Columns that can only mean a question and its answer."""


TURN_COLUMNS = ("conversations", "conversation", "dialogue", "chat")
"""Other names of a list of ``role`` and ``content``."""


def _columns(record: Record) -> str:
    if isinstance(record, dict):
        return ", ".join(map(str, record))[:500] or "none"
    return f"none (a row is a {type(record).__name__})"


def _check_columns(columns: dict[str, str], name: str, layout: Layout) -> None:
    unknown = [column for column in columns if column not in layout.columns]
    if unknown:
        raise SpecError(
            f"dataset columns: {', '.join(unknown)} is no column of {name}: it has {', '.join(layout.columns)}, "
            "and each maps to the name in your file"
        )


def _rename(record: Record, columns: dict[str, str]) -> Record:
    if not columns or not isinstance(record, dict):
        return record
    missing = [own for own in columns.values() if own not in record]
    if missing:
        raise DataError(f"dataset columns: no column {', '.join(missing)} in the file, which has {_columns(record)}")
    taken = set(columns.values())
    return {key: value for key, value in record.items() if key not in taken and key not in columns} | {
        name: record[own] for name, own in columns.items()
    }


def _clean(message: dict[str, str], repaired: Counter[str]) -> dict[str, str]:
    """Line ends of Windows become those of text; what cannot be encoded is refused."""
    content = message["content"]
    if "\r" in content:
        content = content.replace("\r\n", "\n").replace("\r", "\n")
        repaired["Windows line ends"] += 1
        message = message | {"content": content}
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"half a character (\\u{ord(content[error.start]):04x}) at character {error.start + 1} of a message"
        ) from error
    return message


def _need(record: Record, name: str) -> Any:
    if not isinstance(record, dict) or name not in record:
        raise _MissingColumn(f"column {name}")
    return record[name]


def _string(value: Any, what: str) -> str:
    """Text as it is, numbers as text, nothing for null."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{what} is {_kind(value)}, not text")


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}.get(
        type(value), type(value).__name__
    )


def _has(*names: str) -> Callable[[Record], bool]:
    return lambda record: isinstance(record, dict) and all(name in record for name in names)


HEADER = re.compile(r"(?:(?:<s>)+\s*|(?<=</s>)\s*)(Human|Assistant|System)[:：]")
BARE_HEADER = re.compile(r"^(Human|Assistant|System)[:：]", re.MULTILINE)
"""In rows that have no ``<s>`` at all, a speaker's name begins a line."""
CLOSE = re.compile(r"(\n?)</s>(?:</s>|<s>|\s)*\Z")
"""The end of a turn, once or more often."""
SPEAKERS = {"Human": "user", "Assistant": "assistant", "System": "system"}


def _human_assistant(record: Record, repaired: Counter[str]) -> Messages:
    """``<s>Human: q\\n</s><s>Assistant: a\\n</s>``, any number of turns; what is missing around a turn is mended and counted."""
    return parse_human_assistant(_string(_need(record, "text"), "text"), repaired)


def parse_human_assistant(text: str, repaired: Counter[str]) -> Messages:
    """The turns of a text in the format. Well formed, rendering them with the HumanAssistant template gives the same text again."""
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
        repaired["Windows line ends"] += 1
    headers = list(HEADER.finditer(text))
    if not headers:
        headers = list(BARE_HEADER.finditer(text))
        if headers:
            repaired["turns without <s>"] += 1
    if headers and (before := text[: headers[0].start()].strip()):
        raise ValueError(f"text before the first speaker: {before[:40]!r}")
    messages = []
    ends = [following.start() for following in headers[1:]] + [len(text)]
    for header, end in zip(headers, ends, strict=False):
        if not header[0].startswith("<s>") and header.re is HEADER:
            repaired["turns without <s>"] += 1
        messages.append({"role": SPEAKERS[header[1]], "content": _turn(text[header.end() : end], repaired)})
    return messages


def _turn(body: str, repaired: Counter[str]) -> str:
    if body.startswith(" "):
        body = body[1:]
    else:
        repaired["turns without a space after the speaker"] += 1
    close = CLOSE.search(body)
    if close is None:
        repaired["turns without </s>"] += 1
        return body.removesuffix("\n")
    if not close[1]:
        repaired["turns without a line break before </s>"] += 1
    return body[: close.start()]


def _input_target(record: Record, repaired: Counter[str]) -> Messages:
    """A question and its answer; an ``input`` already in the Human/Assistant format keeps its turns, and only ``target`` is trained."""
    question, answer = _string(_need(record, "input"), "input"), _string(_need(record, "target"), "target")
    if not HEADER.search(question) and not BARE_HEADER.match(question):
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    question = re.sub(r"(?:<s>)?Assistant[:：]\s*$", "", question)
    history = parse_human_assistant(question, repaired)
    target = re.sub(r"^\s*(?:<s>)?(?:Assistant[:：])?", "", answer, count=1)
    return [*(turn | {"weight": "0"} if turn["role"] == "assistant" else turn for turn in history),
            {"role": "assistant", "content": re.sub(r"\n?(?:</s>)?\s*$", "", target, count=1).removeprefix(" ")}]  # fmt: skip


def _alpaca(record: Record, repaired: Counter[str]) -> Messages:
    """``instruction``, ``input`` and ``output``; a list as output is the answer and what followed it, speakers by turns."""
    messages: Messages = []
    if system := _string(record.get("system") if isinstance(record, dict) else None, "system"):
        messages.append({"role": "system", "content": system})
    for pair in record.get("history") or [] if isinstance(record, dict) else []:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError("history is not a list of [question, answer] pairs")
        messages += [
            {"role": "user", "content": _string(pair[0], "history")},
            {"role": "assistant", "content": _string(pair[1], "history")},
        ]
    parts = [_string(_need(record, "instruction"), "instruction"), _string(record.get("input"), "input")]
    messages.append({"role": "user", "content": "\n".join(part for part in parts if part.strip())})
    output = _need(record, "output")
    if isinstance(output, str) and output.lstrip().startswith("["):
        output = _list_in_text(output)
    turns = output if isinstance(output, list) else [output]
    for index, turn in enumerate(turns):
        messages.append({"role": ("assistant", "user")[index % 2], "content": _string(turn, f"output {index + 1}")})
    return messages


def _list_in_text(output: str) -> str | list[str]:
    """A list of turns that a CSV holds as JSON; any other text that begins with a bracket stays text."""
    try:
        turns = json.loads(output)
    except ValueError:
        return output
    return (
        turns if isinstance(turns, list) and len(turns) > 1 and all(isinstance(turn, str) for turn in turns) else output
    )


SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant", "bot": "assistant", "system": "system",
}  # fmt: skip


def _sharegpt(record: Record, repaired: Counter[str]) -> Messages:
    messages: Messages = []
    if system := _string(record.get("system") if isinstance(record, dict) else None, "system"):
        messages.append({"role": "system", "content": system})
    return messages + _turns(_need(record, "conversations"), "from", "value", SHAREGPT_ROLES)


MESSAGE_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system", "human": "user"}


def _messages(record: Record, repaired: Counter[str]) -> Messages:
    return _turns(_need(record, "messages"), "role", "content", MESSAGE_ROLES)


def _turns(turns: Any, who: str, what: str, roles: dict[str, str]) -> Messages:
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)  # a list in a column of a CSV
        except ValueError as error:
            raise ValueError("the conversation is text, and not JSON") from error
    if not isinstance(turns, list):
        raise ValueError(f"the conversation is {_kind(turns)}, not a list")
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict) or who not in turn or what not in turn:
            raise ValueError(f"message {number} has no {who} and {what}")
        role = roles.get(str(turn[who]).lower())
        if role is None:
            raise ValueError(f"message {number} is from {turn[who]!r}; known are {', '.join(roles)}")
        message = {"role": role, "content": _content(turn[what], number)}
        if role == "assistant" and turn.get("weight") == 0:
            message["weight"] = "0"
        messages.append(message)
    return messages


def _content(content: Any, number: int) -> str:
    """Text, or OpenAI's list of text parts."""
    if isinstance(content, list):
        kinds = [part.get("type") if isinstance(part, dict) else None for part in content]
        if any(kind != "text" for kind in kinds):
            raise ValueError(f"message {number} holds more than text: {', '.join(map(str, kinds))}")
        return "".join(_string(part.get("text"), f"message {number}") for part in content)
    return _string(content, f"message {number}")


CJK = r"[⺀-鿿가-힣豈-﫿︰-﹏＀-￯　-〿\U00020000-\U0003ffff‘-”…—·]"
SEGMENTED = re.compile(rf"(?<={CJK})[ \t]+(?={CJK})")


def join_segments(text: str) -> str:
    """Chinese that was cut into words, joined again; spaces beside Latin letters and digits stay."""
    return SEGMENTED.sub("", text.strip())


def _lccc(record: Record, repaired: Counter[str]) -> Messages:
    """Utterances of two speakers by turns, cut into words by spaces."""
    turns = record if isinstance(record, list) else _need(record, "dialog")
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise ValueError("the dialogue is not a list of utterances")
    return [
        {"role": ("user", "assistant")[index % 2], "content": join_segments(turn)} for index, turn in enumerate(turns)
    ]


def _math23k(record: Record, repaired: Counter[str]) -> Messages:
    """A problem, the equation as its solution, and the answer where the row has one."""
    question = _string(record.get("original_text") if isinstance(record, dict) else None, "original_text")
    if not question.strip():
        question = join_segments(_string(_need(record, "segmented_text"), "segmented_text"))
    equation = _string(_need(record, "equation"), "equation").strip()
    answer = _string(record.get("ans", record.get("answer")), "ans").strip()
    return [{"role": "user", "content": question.strip()},
            {"role": "assistant", "content": "\n".join(part for part in (equation, answer and f"答案：{answer}") if part)}]  # fmt: skip


def _is_text(record: Record) -> bool:
    text = record.get("text") if isinstance(record, dict) else None
    return isinstance(text, str) and bool(HEADER.search(text) or BARE_HEADER.search(text))


def _is_turns(column: str, key: str) -> Callable[[Record], bool]:
    def matches(record: Record) -> bool:
        turns = record.get(column) if isinstance(record, dict) else None
        if isinstance(turns, str) and turns.lstrip().startswith("["):
            try:
                turns = json.loads(turns)
            except ValueError:
                return False
        return isinstance(turns, list) and (not turns or (isinstance(turns[0], dict) and key in turns[0]))

    return matches


LAYOUTS: dict[str, Layout] = {
    "Messages": Layout(("messages",), 1, _is_turns("messages", "role"), _messages),
    "ShareGPT": Layout(("conversations", "system"), 1, _is_turns("conversations", "from"), _sharegpt),
    "HumanAssistantText": Layout(("text",), 1, _is_text, _human_assistant),
    "Alpaca": Layout(("instruction", "output", "input", "system", "history"), 2, _has("instruction", "output"), _alpaca),
    "InputTarget": Layout(("input", "target"), 2, _has("input", "target"), _input_target),
    "Math23K": Layout(("equation", "original_text", "segmented_text", "ans"), 2, lambda record: _has("original_text", "equation")(record) or _has("segmented_text", "equation")(record), _math23k),
    "LCCC": Layout(("dialog",), 1, lambda record: (isinstance(record, list) and all(isinstance(x, str) for x in record)) or _has("dialog")(record), _lccc),
}  # fmt: skip
"""In the order in which `Auto` tries them."""
