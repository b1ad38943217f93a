"""From a file to its documents: text with the place where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from alpaca_operator.api.dataset import RawSource
from workloads.curation import layouts, markup
from workloads.curation.shares import RawFile
from workloads.data import corpus, json_text
from workloads.data.corpus import CorpusFile, Tally
from workloads.data.encodings import REPLACEMENT, WIDER
from workloads.data.files import Unusable, open_records
from workloads.data.opening import ending
from workloads.errors import DataError
from workloads.system.describe import shown, some

LONGEST = 4 << 20
"""Characters of a document. What is longer is several: rules and comparisons hold all of a document in memory."""
SEVERAL = "documents were longer than 4,194,304 characters and became several"


@dataclass(frozen=True)
class Raw:
    """A document as its file has it."""

    place: str
    """Where in its file: `line 3`."""
    text: str
    row: dict[str, Any] | None = None
    """Of a conversation its messages, and what else is written of it."""


Item = Raw | tuple[str, str]
"""A document; or the place of a row that cannot be used, and why."""


def documents(file: RawFile, source: RawSource, tally: Tally) -> Iterator[Item]:
    """The documents of a file. What was mended is counted in ``tally``.

    Raises DataError and InputError, with file and place, for a file that cannot be read.
    """
    for item in _items(file, source, tally):
        if isinstance(item, tuple):
            yield item
            continue
        text = _encodable(item, file, tally)
        if len(text) <= LONGEST:
            yield Raw(item.place, text)
            continue
        tally.note(SEVERAL, f"{shown(file.path)}, {item.place}")
        for number, part in enumerate(_parts(text), start=1):
            yield Raw(f"{item.place}, part {number}", part)


def _items(file: RawFile, source: RawSource, tally: Tally) -> Iterator[Item]:
    if file.kind == "EPUB":
        return iter([Raw("book", markup.book(file.path))])
    if file.kind == "WikiXML":
        return (Raw(f"page {number}", text) for number, text in markup.pages(file.path, tally))
    if file.kind == "Text" and file.corpus == "CLUE":
        return _apart(layouts.paragraphs_apart(_lines(file, source, tally)))
    if file.kind == "Text" and (file.corpus == "WikiExtractor" or _is_extracted(file, source, tally)):
        return _apart(markup.extracted(_lines(file, source, tally), file.path))
    return _texts(file, source, tally) if file.kind == "Text" else _rows(file, source, tally)


def _is_extracted(file: RawFile, source: RawSource, tally: Tally) -> bool:
    """Whether `Auto` takes a text for articles: all of them, between tags, would be one document otherwise."""
    if source.format != "Auto" or not markup.is_extracted(file.path):
        return False
    tally.note("text files that begin with <doc were read as WikiExtractor's", shown(file.path))
    return True


def _apart(documents: Iterator[tuple[int, str]]) -> Iterator[Item]:
    return (Raw(f"line {number}", text) for number, text in documents)


def _lines(file: RawFile, source: RawSource, tally: Tally) -> Iterator[str]:
    encoding = file.encoding or source.encoding
    return corpus.lines(CorpusFile(file.path, "JSONL", encoding, field=file.field, span=file.span), tally)


def _texts(file: RawFile, source: RawSource, tally: Tally) -> Iterator[Item]:
    """A text file is one document, or several where it is too long."""
    parts: list[str] = []
    size = number = 0
    for block in corpus.documents([CorpusFile(file.path, "Text", source.encoding, field=file.field)], tally):
        if size and (block == corpus.END or size + len(block) > LONGEST):
            number += 1
            if number == 2:
                tally.note(SEVERAL, shown(file.path))
            yield Raw(f"part {number}", "".join(parts))
            parts, size = [], 0
        parts.append(block)
        size += len(block)


def _rows(file: RawFile, source: RawSource, tally: Tally) -> Iterator[Item]:
    for place, record in records(file, source, tally):
        if isinstance(record, Unusable):
            yield place, record.reason
            continue
        text = _text_of(record, file, source, partial(_noted, tally, f"{shown(file.path)}, {place}"))
        yield (place, text.reason) if isinstance(text, Unusable) else Raw(place, text)


def records(file: RawFile, source: RawSource, tally: Tally) -> Iterator[tuple[str, Any]]:
    """Each row with its place. JSON lines bear damaged bytes, as text does; of other formats nobody knows what they would have said."""
    if file.kind == "JSONL":
        after = "" if file.span is None else f" after byte {file.span[0]:,}"
        for number, line in enumerate(_lines(file, source, tally), start=1):
            if line and not line.isspace():
                yield f"line {number}{after}", _parsed(line)
        return
    kind = ".tsv" if file.kind == "CSV" and ending(file.path) == ".tsv" else FORMATS[file.kind]
    unit, _, numbered = open_records(file.path, None, kind, ENCODINGS.get(source.encoding, source.encoding))
    empty = True
    for number, record in numbered:
        empty = False
        yield f"{unit} {number}", record
    if empty:
        tally.note(corpus.EMPTY, shown(file.path))


FORMATS = {"JSON": ".json", "CSV": ".csv", "Parquet": ".parquet", "Arrow": ".arrow"}
"""The ending that stands for a format."""
ENCODINGS = {"Auto": None, "utf-8": "utf-8-sig", **WIDER}
"""What a file is opened as, where that is not what the spec calls it: a byte order mark may stand before UTF-8."""


def _parsed(line: str) -> Any:
    try:
        return json_text.loads(line)
    except (ValueError, RecursionError) as error:
        return Unusable(f"not JSON ({' '.join(str(error).split())[:200]}): mend or remove this line")


def _noted(tally: Tally, where: str, what: str, count: int) -> None:
    tally.note(what, where, count)


def _text_of(record: Any, file: RawFile, source: RawSource, note: layouts.Note) -> str | Unusable:
    """What a row says. A row that is nothing but a text is that text."""
    if isinstance(record, str) and file.corpus is None:
        return record
    columns = source.columns
    if isinstance(record, dict) and (file.corpus or columns.text not in record):
        layout = layouts.layout_of(record, file.corpus)
        if layout is not None:
            return layout.text(record, note)
    if file.corpus:
        has = some([repr(name) for name in record], 12) if isinstance(record, dict) else f"a {type(record).__name__}"
        return Unusable(
            f"no row of {file.corpus}, which has {layouts.fields_of(file.corpus)}; it has {has}: set format to another"
        )
    if not isinstance(record, dict):
        return Unusable(f"a {type(record).__name__} where an object with {columns.text!r} is looked for")
    if columns.text not in record:
        return Unusable(
            f"no {columns.text!r}; it has {some([repr(name) for name in record], 12)}: set columns.text to one of them"
        )
    text = record[columns.text]
    if columns.title is not None and columns.title not in record:
        note("rows had no column of the title that columns.title names", 1)
    title = record.get(columns.title) if columns.title is not None else None
    if text is None:
        text = ""
    if not isinstance(text, str):
        return Unusable(f"{columns.text!r} is a {type(text).__name__}, not text")
    if title is not None and not isinstance(title, str):
        return Unusable(f"{columns.title!r} is a {type(title).__name__}, not text")
    return layouts.with_title(title or "", text)


def _encodable(raw: Raw, file: RawFile, tally: Tally) -> str:
    r"""JSON can hold half a character (``\ud83d``), which no encoding can write."""
    if raw.text.isascii():
        return raw.text
    try:
        raw.text.encode()
    except UnicodeEncodeError:
        whole = raw.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        tally.note("undecodable characters left out", f"{shown(file.path)}, {raw.place}", whole.count(REPLACEMENT))
        return whole.replace(REPLACEMENT, "")
    return raw.text


def _parts(text: str) -> Iterator[str]:
    """A text in pieces, cut at the ends of lines where it has them."""
    start = 0
    while len(text) - start > LONGEST:
        cut = text.rfind("\n", start, start + LONGEST) + 1
        end = cut if cut > start else start + LONGEST
        yield text[start:end]
        start = end
    yield text[start:]


def must_fit(found: int, limit: int) -> None:
    """Raises DataError where more rows cannot be used than may be passed over."""
    if found > limit:
        raise DataError(
            f"{found:,} rows cannot be used, and maxBadRows is {limit:,}: raise it, or mend the files that the log names"
        )
