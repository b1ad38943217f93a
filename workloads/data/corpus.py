"""Plain text from folders of novels, JSON lines, CSV and Parquet, streamed: a corpus may be larger than memory.

Sources are only ever read. Every text is handed on in blocks of bounded size; what is wrong with a file is either an error that
names file and row, or is counted in the Tally and told to the user.
"""

from __future__ import annotations

import codecs
import csv
import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from alpaca_operator.api.corpus import CorpusSource
from workloads.data import columnar, json_text
from workloads.data.bad_rows import BadRows
from workloads.data.encodings import MARK, REPLACEMENT, WIDER, encoding_of
from workloads.data.files import SEPARATOR
from workloads.data.opening import LinesWithin, Unpacked, ending, kind_of, must_be_text, open_bytes
from workloads.data.selection import OTHER_SPLIT, archives, select
from workloads.errors import DataError
from workloads.system.describe import shown, some
from workloads.system.os_errors import is_below, unreadable

ENDINGS = {
    ".txt": "Text", ".text": "Text",
    ".jsonl": "JSONL", ".ndjson": "JSONL", ".json": "JSONL",
    ".csv": "CSV", ".tsv": "CSV",
    ".parquet": "Parquet",
    ".arrow": "Arrow", ".feather": "Arrow",
}  # fmt: skip
BLOCK = 1 << 20
"""Bytes read at once, and about the most characters handed on at once."""
DAMAGE_LIMIT = 0.01
"""Share of characters that may be undecodable. Below it they are replaced and counted; above it the encoding is wrong, or the file
is no text."""
DAMAGE_GRACE = 10
"""So many undecodable characters are borne in any file, however short."""
END = ""
"""Ends a document."""
OTHER_SPLITS = "files of other splits of the data set left out"
"""Said of a folder of which some files name the split that is read, and others another one."""


@dataclass(frozen=True)
class CorpusFile:
    """A file of text and how it is read."""

    path: Path
    format: str
    """Text, JSONL, CSV, Parquet or Arrow."""
    encoding: str = "Auto"
    column: str = "text"
    field: str = "dataset.train[]"
    """Where the spec says how it is read."""
    span: tuple[int, int] | None = None
    """Of which bytes the lines are read that begin there; None is all. Such a file is not packed."""
    is_read_anew: bool = False
    """Whether versions that went by the last ending alone, and followed no links to folders, read it otherwise or not at all."""

    def encoding_used(self) -> str:
        """As Python calls it: told from the file for Auto. Raises DataError for what is no text."""
        if self.encoding == "Auto":
            return encoding_of(self.path, open_bytes, f"name {self.field}.encoding, or remove the file")
        return WIDER.get(self.encoding, self.encoding)

    def opened(self) -> Unpacked | LinesWithin:
        """Its bytes, as far as they are read."""
        return Unpacked(self.path) if self.span is None else LinesWithin(self.path, *self.span)

    def place(self, row: int) -> str:
        """Where a line stands, in words."""
        after = "" if self.span is None else f" after byte {self.span[0]:,}"
        return f"{shown(self.path)}, row {row}{after}"

    def is_marked(self) -> bool:
        """Whether the file begins with a byte order mark that the encoding named for it takes for a character."""
        if self.encoding == "Auto" or self.format in ("Parquet", "Arrow"):
            return False
        with open_bytes(self.path) as handle:
            start = handle.read(4)
        return codecs.getincrementaldecoder(self.encoding_used())("replace").decode(start).startswith(MARK)


EMPTY = "empty files passed over"


@dataclass
class Tally:
    """What was read, and what was wrong with it."""

    files: int = 0
    bytes: int = 0
    """Of the files read so far, and of the one being read."""
    characters: int = 0
    rows: int = 0
    """Rows with text, of everything but text files."""
    encodings: Counter[str] = field(default_factory=Counter)
    """Files by encoding."""
    problems: Counter[str] = field(default_factory=Counter)
    """What was passed over or mended, counted by a sentence that says how."""
    examples: dict[str, str] = field(default_factory=dict)
    """Where each problem was met first."""
    bad: BadRows = field(default_factory=BadRows)
    """What becomes of rows that cannot be used."""
    left_out: list[str] = field(default_factory=list)
    """What folders hold and is not read, a line a reason."""

    def note(self, problem: str, where: str, count: int = 1) -> None:
        self.problems[problem] += count
        self.examples.setdefault(problem, where)

    def lines(self) -> list[str]:
        """For the log."""
        encodings = ", ".join(f"{count} in {name}" for name, count in self.encodings.most_common())
        read = f"read {self.files} files, {self.bytes:,} bytes, {self.characters:,} characters"
        return [read + (f" ({encodings})" if encodings else ""), *self.problem_lines()]

    def problem_lines(self) -> list[str]:
        """What was not read, then a line a problem, the commonest first."""
        return [
            *self.left_out,
            *self.bad.lines(),
            *(
                f"{count:,} {problem} (first: {self.examples[problem]})"
                for problem, count in self.problems.most_common()
            ),
        ]


def files_of(sources: Sequence[tuple[CorpusSource, Path]], tally: Tally, part: str = "train") -> list[CorpusFile]:
    """The files of all sources, those of a folder by name; of a data set with splits, those of ``part`` (train or validation).

    Raises DataError for a source without any.
    """
    return [file for source, path in sources for file in _files_of(source, path, tally, part)]


def texts(files: Iterable[CorpusFile], tally: Tally) -> Iterator[str]:
    """The texts of ``files``, in blocks of at most about BLOCK characters; a row is never joined with the next.

    Line ends are ``\\n``. Raises DataError, with file and row, for what cannot be read.
    """
    return filter(None, documents(files, tally))


def documents(files: Iterable[CorpusFile], tally: Tally) -> Iterator[str]:
    """As `texts`, with an empty string after each document: a text file, or a row of the other formats."""
    for file in files:
        before = tally.bytes
        try:
            for text in READERS[file.format](file, tally):
                tally.characters += len(text)
                yield text
        except OSError as error:
            raise unreadable(error, file.path) from error
        tally.files += 1
        tally.bytes = before + file.path.stat().st_size


def _files_of(source: CorpusSource, path: Path, tally: Tally, part: str) -> list[CorpusFile]:
    named = source.format != "Auto"
    chosen = select(path, None if named else ENDINGS, part)
    if not chosen.files:
        raise DataError(
            f"{shown(path)}: no file in it ends in {', '.join(ENDINGS)}: name the folder of the texts, or set dataset.train[].format{archives(chosen)}"
        )
    for name, reason in chosen.left_out.items():
        if reason == OTHER_SPLIT:
            tally.note(OTHER_SPLITS, shown(path / name))
    tally.left_out += [line for line in chosen.lines() if OTHER_SPLIT not in line]
    return [_described(source, path, file) for file in chosen.files]


def _described(source: CorpusSource, folder: Path, file: Path) -> CorpusFile:
    kind = source.format if source.format != "Auto" else ENDINGS[kind_of(file, ENDINGS) or ".txt"]
    by_name = source.format if source.format != "Auto" else ENDINGS.get(file.suffix.lower(), "Text")
    is_linked = folder.is_dir() and not is_below(str(file.parent), folder)
    return CorpusFile(file, kind, source.encoding, source.columns.text, is_read_anew=is_linked or kind != by_name)


def _decoded(file: CorpusFile, tally: Tally) -> Iterator[str]:
    """A text file in blocks that end with a line, where lines are not longer than blocks. Line ends become ``\\n``."""
    must_be_text(file.path)
    encoding = file.encoding_used()
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    rest, row, characters, damaged, empty = "", 1, 0, 0, True
    before, unpacked = tally.bytes, file.opened()
    with io.BufferedReader(unpacked) as handle:
        while True:
            raw = handle.read(BLOCK)
            tally.bytes = before + unpacked.consumed
            text = decoder.decode(raw, final=not raw)
            if characters == 0:
                text = text.removeprefix(MARK)
            characters += len(text)
            if REPLACEMENT in text:
                place = file.place(row + (rest + text).count("\n", 0, (rest + text).index(REPLACEMENT)))
                damaged += text.count(REPLACEMENT)
                tally.note("undecodable characters left out", place, text.count(REPLACEMENT))
                if damaged > DAMAGE_GRACE + characters * DAMAGE_LIMIT:
                    raise DataError(
                        f"{place}: {damaged} of the first {characters} characters are not valid {encoding}: name {file.field}.encoding, or mend the file"
                    )
                text = text.replace(REPLACEMENT, "")
            text = rest + text
            if not raw:
                break
            empty = False
            cut = text.rfind("\n") + 1 or (len(text) if len(text) >= BLOCK else 0)
            rest = text[cut:]
            if cut:
                row += text.count("\n", 0, cut)
                yield _unix(text[:cut])
    if text:
        yield _unix(text)
    if empty and file.span is not None:
        return  # one line of the piece before goes over all of it
    if empty:
        tally.note(EMPTY, shown(file.path))
    else:
        tally.encodings[encoding] += 1


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _read_text(file: CorpusFile, tally: Tally) -> Iterator[str]:
    yield from _decoded(file, tally)
    yield END


def lines(file: CorpusFile, tally: Tally) -> Iterator[str]:
    """Lines of a file of rows, each whole however long, without their ends."""
    parts: list[str] = []
    for block in _decoded(file, tally):
        found = block.split("\n")
        found[0] = "".join([*parts, found[0]])
        parts = [found.pop()]
        yield from found
    if parts and parts[0]:
        yield parts[0]


class _BadRow(Exception):
    """A row that cannot be used, though those after it can; the message is the reason."""


def _read_jsonl(file: CorpusFile, tally: Tally) -> Iterator[str]:
    for number, line in enumerate(lines(file, tally), start=1):
        if not line or line.isspace():
            continue
        where = f"{shown(file.path)}, row {number}"
        try:
            text = _of_line(line, file.column)
            if isinstance(text, str) and "\\u" in line:
                text = _without_surrogates(text, where, tally)
            blocks = _blocks(text, file.column, where, tally)
        except _BadRow as error:
            tally.bad.take(where, str(error), error)
        else:
            yield from blocks


def _of_line(line: str, column: str) -> Any:
    try:
        row = json_text.loads(line)
    except (ValueError, RecursionError) as error:
        hint = "; a file that is one JSON array has to be written as JSON lines first" if line[0] == "[" else ""
        raise _BadRow(f"not JSON ({error}): {line[:60]!r}{hint}") from error
    if isinstance(row, str):
        return row
    if not isinstance(row, dict):
        raise _BadRow(f"a {type(row).__name__} instead of an object with {column!r}: {str(row)[:60]!r}")
    if column not in row:
        raise _BadRow(f"no {column!r}; it has {_names(row)}: set dataset.train[].columns.text to one of them")
    return row[column]


def _without_surrogates(text: str, where: str, tally: Tally) -> str:
    r"""JSON can hold half a character (``\ud83d``), which no encoding can write."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if REPLACEMENT in whole:
        tally.note("undecodable characters left out", where, whole.count(REPLACEMENT))
    return whole.replace(REPLACEMENT, "")


def _read_csv(file: CorpusFile, tally: Tally) -> Iterator[str]:
    csv.field_size_limit(sys.maxsize)
    delimiter = "\t" if ending(file.path) == ".tsv" else ","
    rows = lines(file, tally)
    head = next(rows, "")
    if said := SEPARATOR.fullmatch(head):
        delimiter, head = said[1], next(rows, "")
    reader = csv.reader((line + "\n" for line in chain([head] if head else [], rows)), delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        if header.count(file.column) > 1:
            raise DataError(
                f"{shown(file.path)}, row 1: the column {file.column!r} stands twice: rename or remove one of them"
            )
        if file.column not in header:
            raise DataError(
                f"{shown(file.path)}, row 1: no column {file.column!r}; it has {_names(header)}: set dataset.train[].columns.text to one of them"
            )
        index = header.index(file.column)
        for number, row in enumerate(reader, start=2):
            if not row:
                continue
            if len(row) == len(header):
                yield from _blocks(row[index], file.column, f"{shown(file.path)}, row {number}", tally)
            else:
                tally.bad.take(
                    f"{shown(file.path)}, row {number} (line {reader.line_num})",
                    f"{len(row)} fields where the header has {len(header)}: quote fields that hold {delimiter!r}",
                )
    except csv.Error as error:
        raise DataError(f"{shown(file.path)}, line {reader.line_num}: not CSV ({error}): mend its quotes") from error


def _read_columns(file: CorpusFile, tally: Tally) -> Iterator[str]:
    """Parquet, Arrow and Feather."""
    number, before, size = 0, tally.bytes, file.path.stat().st_size
    try:
        for batch, share in columnar.batches(file.path, file.column):
            tally.bytes = before + int(share * size)
            for text in batch.column(file.column).to_pylist():
                number += 1
                where = f"{shown(file.path)}, row {number}"
                try:
                    blocks = _blocks(text, file.column, where, tally)
                except _BadRow as error:
                    tally.bad.take(where, str(error), error)
                else:
                    yield from blocks
    except columnar.NoColumn as error:
        raise DataError(
            f"{shown(file.path)}: no column {file.column!r}; it has {_names(error.names)}: set dataset.train[].columns.text to one of them"
        ) from error


READERS = {
    "Text": _read_text,
    "JSONL": _read_jsonl,
    "CSV": _read_csv,
    "Parquet": _read_columns,
    "Arrow": _read_columns,
}


def _blocks(text: Any, column: str, where: str, tally: Tally) -> Iterator[str]:
    """A row's text, in blocks, with its end. Raises _BadRow for what is no text."""
    if text is None or text == "":
        tally.note("rows without text passed over", where)
        return iter(())
    if not isinstance(text, str):
        raise _BadRow(f"{column!r} is a {type(text).__name__}, not text: {str(text)[:60]!r}")
    tally.rows += 1
    whole = _unix(text)
    return chain((whole[start : start + BLOCK] for start in range(0, len(whole), BLOCK)), (END,))


def _names(columns: Iterable[str]) -> str:
    return some([repr(name) for name in columns], 12)


SENTENCE_LIMIT = 200
"""Characters of a line above which it is split after its sentence ends. It bounds what a sentence takes in memory."""
SENTENCE_ENDS = "。！？；…!?;"
UNUSABLE = ("\0", "\u2581", "\u2585")
"""NUL, which ends a string in C; the mark that sentencepiece writes spaces with, and the one it keeps for unknown text."""


def sentences(blocks: Iterable[str], only: frozenset[str] | None = None) -> Iterator[list[str]]:
    """The lines of each block, none empty and none longer than SENTENCE_LIMIT; overlong ones are split, at sentence ends where possible.

    Given ``only``, lines are cut at every character that is not among them.
    """
    cuts: dict[int, str] = {}
    for block in blocks:
        for mark in UNUSABLE:
            if mark in block:
                block = block.replace(mark, " ")
        if only is not None:
            cuts.update((ord(character), "\n") for character in set(block) - only)
            block = block.translate(cuts)
        lines = block.split("\n")
        if max(map(len, lines)) > SENTENCE_LIMIT:
            lines = [part for line in lines for part in ((line,) if len(line) <= SENTENCE_LIMIT else _split(line))]
        yield [line for line in lines if line]


def _split(line: str) -> Iterator[str]:
    start = 0
    while len(line) - start > SENTENCE_LIMIT:
        end = start + SENTENCE_LIMIT
        cut = max(line.rfind(mark, start, end) for mark in SENTENCE_ENDS) + 1 or end
        yield line[start:cut]
        start = cut
    yield line[start:]
