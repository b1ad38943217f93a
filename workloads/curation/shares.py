"""The files of all sources, dealt out in shares: how depends on the files alone, so that any number of processes makes the same corpus."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alpaca_operator.api.dataset import EarlierCorpus, RawSource
from workloads.curation import archives, markup
from workloads.data.corpus import ENDINGS, CorpusFile
from workloads.data.files import ROWS, is_lines
from workloads.data.opening import ending, foreign, is_packed, kind_of
from workloads.data.selection import Selection, select
from workloads.data.selection import archives as unread_archives
from workloads.errors import DataError, SpecError
from workloads.system.describe import shown

SHARE_BYTES = 1 << 20
"""Of files in a share at least, where there are so many."""
MOST_SHARES, MOST_SHARE_BYTES = 256, 1 << 30
"""There are more where each would have more files than this: some numbers of all documents of a share are held in memory."""
PIECE_BYTES = 64 << 20
"""Of a large file that one process reads."""
WIDE = ("utf-16", "utf-32")
"""Encodings of more than a byte a line end."""
KINDS = {**ENDINGS, ".json": "JSON", ".xml": "WikiXML", ".epub": "EPUB"}
"""How files are read, by their endings."""
WITHOUT_ROWS = ("Text", "WikiXML", "EPUB")
CORPORA = ("WikiExtractor", "WuDao", "MNBVC", "CLUE")
"""Formats that say what rows have; what a file is made of, its ending says, or its content."""


@dataclass(frozen=True)
class RawFile:
    """A file, and how it is read."""

    source: int
    """Number of the source in the spec."""
    path: Path
    name: str
    """Within its source; part of the names of its documents."""
    kind: str
    size: int
    corpus: str | None = None
    """One of CORPORA, where the spec names it."""
    field: str = "sources[]"
    """Where the spec says how it is read."""
    span: tuple[int, int] | None = None
    """Of a piece of a file the bytes in which its lines begin."""
    encoding: str | None = None
    """Of such a piece the encoding of the whole file, as Python calls it."""

    @property
    def key(self) -> str:
        """What of it shapes the share that it is in, besides what it holds."""
        return self.name if self.span is None else f"{self.name}@{self.span[0]}-{self.span[1]}"


class Shares(list[Sequence[RawFile]]):
    """The files of each share, which nobody changes: whoever copies a step copies none of them."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Shares:
        return self


@dataclass(frozen=True)
class Origin:
    """A source as documents and reports call it."""

    name: str
    spec: RawSource
    field: str = "sources[]"
    """Where the spec has it."""
    holds_conversations: bool = False


def origins(sources: Sequence[RawSource], content: str = "Text") -> list[Origin]:
    """The sources with a name each. Raises SpecError for a name that is given twice."""
    found: list[Origin] = []
    for index, source in enumerate(sources):
        place = source.from_.name if source.from_ is not None else str(source.uri).rstrip("/").rpartition("/")[2]
        name, number = source.name or place.partition("@")[0] or "source", 1
        taken = {origin.name for origin in found}
        if source.name in taken:
            raise SpecError(f"sources[{index}].name: {source.name} is taken: give each source a name of its own")
        base = name
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        found.append(Origin(name, source, f"sources[{index}]", content == "Conversations"))
    return found


def earlier(corpora: Sequence[EarlierCorpus], content: str = "Text") -> list[Origin]:
    """Corpora that documents are compared with, as origins after those of the sources."""
    return [
        Origin(
            f"against[{index}]",
            RawSource(**dict(corpus)),
            f"deduplicate.against[{index}]",
            content == "Conversations",
        )
        for index, corpus in enumerate(corpora)
    ]


def files_of(
    index: int, source: RawSource, path: Path, field: str = "sources[]", *, rows_only: bool = False
) -> tuple[list[RawFile], list[str]]:
    """The files of a source that are read, and what is said of the others; ``rows_only`` leaves out text without rows. Raises DataError for a
    source without any."""
    found, chosen = _chosen(index, source, path, field, rows_only=rows_only)
    return found, list(chosen.lines())


def _chosen(
    index: int, source: RawSource, path: Path, field: str, *, rows_only: bool
) -> tuple[list[RawFile], Selection]:
    chosen = select(path, None, None)
    found: list[RawFile] = []
    for file in chosen.files:
        name = archives.readable(os.fsencode(file.relative_to(chosen.source)))
        described = raw_file(index, source, file, name, field, is_alone=path.is_file())
        if described is None:
            chosen.leave_out(file, _why_not(file))
        elif rows_only and described.kind in WITHOUT_ROWS:
            chosen.leave_out(file, f"not read, as conversations are rows, and these are {described.kind}")
        else:
            found.append(described)
    if not found and rows_only:
        raise DataError(
            f"{shown(path)}: no file of rows in it ({', '.join(ROWS)}, also packed or in archives), which conversations are read from: name the folder "
            f"of the rows, or set {field}.format"
        )
    if not found:
        raise DataError(
            f"{shown(path)}: no file in it that is read ({', '.join([*KINDS, *archives.ENDINGS])}, or text without an ending): name the folder of the texts, or set "
            f"{field}.format{unread_archives(chosen)}"
        )
    return found, chosen


def raw_file(
    index: int, source: RawSource, file: Path, name: str, field: str, *, is_alone: bool = False
) -> RawFile | None:
    """A file of a source with how it is read; None for one that is none of ours. A file that is named by itself (``is_alone``) is looked at
    whatever its ending, and so are those of a source that names a corpus."""
    corpus = source.format if source.format in CORPORA else None
    kind: str | None = archives.kind_of(file)
    if kind is None:
        kind = source.format
        if source.format == "Auto" or corpus:
            kind = _kind(file, is_alone or corpus is not None)
    return None if kind is None else RawFile(index, file, name, kind, file.stat().st_size, corpus, field)


def _kind(file: Path, is_alone: bool) -> str | None:
    if ending(file) == ".xml" and not is_alone and not markup.is_mediawiki(file):
        return None
    if (named := ending(file)) in KINDS:
        return KINDS[named]
    if (named and not is_alone) or (not is_alone and foreign(file) is not None):
        return None
    return KINDS[kind_of(file, KINDS) or ".txt"]


def _why_not(file: Path) -> str:
    if ending(file) == ".xml":
        return "not read, as their XML is no dump of MediaWiki"
    found = foreign(file)
    return (
        f"not read, as they end in none of {', '.join([*KINDS, *archives.ENDINGS])}"
        if found is None
        else f"not read, each is {found[0]}"
    )


def pieces(file: RawFile, source: RawSource) -> list[RawFile]:
    """A large file of JSON lines in pieces of PIECE_BYTES, which several processes read at once; any other file as it is. What is packed cannot
    be begun in the middle, and in an encoding whose characters may hold a line end nobody knows there where one ends."""
    if (
        file.kind not in ("JSON", "JSONL")
        or file.size <= PIECE_BYTES
        or is_bounded(source)
        or is_packed(file.path)
        or archives.kind_of(file.path)
    ):
        return [file]
    encoding = CorpusFile(file.path, "JSONL", source.encoding, field=file.field).encoding_used()
    if encoding.replace("_", "-").startswith(WIDE) or (file.kind == "JSON" and not is_lines(file.path, encoding)):
        return [file]
    file = replace(file, kind="JSONL")
    starts = range(0, file.size, PIECE_BYTES)
    spans = [(start, min(start + PIECE_BYTES, file.size)) for start in starts]
    return [replace(file, span=span, size=span[1] - span[0], encoding=encoding) for span in spans]


def deal(files: Sequence[RawFile], sources: Sequence[RawSource]) -> list[list[RawFile]]:
    """Neighbouring files together, until a share is full. A source with a bound is one share: who reads it has to know what was read of it."""
    full = max(SHARE_BYTES, min(MOST_SHARE_BYTES, -(-sum(file.size for file in files) // MOST_SHARES)))
    shares: list[list[RawFile]] = []
    size = 0
    for file in files:
        bounded = is_bounded(sources[file.source])
        same = bool(shares) and shares[-1][-1].source == file.source
        if (
            not shares
            or (bounded and not same)
            or (not bounded and (size >= full or is_bounded(sources[shares[-1][-1].source])))
        ):
            shares.append([])
            size = 0
        shares[-1].append(file)
        size += file.size
    return shares


def is_bounded(source: RawSource) -> bool:
    return source.max_documents is not None or source.max_bytes is not None


def all_files(
    origins: Sequence[Origin], inputs: Mapping[str, Any], first: int = 0
) -> tuple[list[list[RawFile]], list[Selection]]:
    """The shares of all origins from the ``first`` on, and what was chosen of each, which knows what is left out."""
    found: list[RawFile] = []
    selections: list[Selection] = []
    for index, origin in enumerate(origins[first:], start=first):
        path = Path(inputs[origin.field].path)
        files, chosen = _chosen(index, origin.spec, path, origin.field, rows_only=origin.holds_conversations)
        for file in files:
            found += pieces(file, origin.spec)
        selections.append(chosen)
    return deal(found, [origin.spec for origin in origins]), selections
