"""The steps of datatrove's pipelines that are ours: read, clean, filter, store; load, count what a comparison left out, write."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from alpaca_operator.api.dataset import Decontamination, Filters
from workloads.curation import archives, measures, near, on_disk, reading, shares, talks
from workloads.curation.cleaning import Rule
from workloads.curation.held_out import HeldOut
from workloads.curation.ledger import READ, Ledger, size_of
from workloads.curation.packing import LinesWriter
from workloads.curation.shares import Origin, RawFile, Shares, is_bounded
from workloads.data.corpus import Tally
from workloads.data.opening import open_bytes
from workloads.errors import DataError
from workloads.system import atomic
from workloads.system.describe import shown

CLEANED, HASHES, SIZES, LEDGERS = "cleaned", "hashes", "sizes", "ledgers"
"""Folders of a stage: documents, a number for each document's text, its source and bytes, counts; a file a share."""
HASH, SIZE = np.dtype("<u8"), np.dtype([("source", "<u4"), ("bytes", "<u4")])
BAD_ROW, EMPTY, HELD_OUT = "row that cannot be used", "empty", "holds what is measured on"
NO_ANSWER = "conversation without an answer"
"""Why a document goes no further, besides the names of filters and rules."""

Documents = Iterable[Document]


class Step(PipelineStep):
    """A step that counts in a ledger, which all steps of a share have in common."""

    type = "Corpus"
    name = "step"

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger


class Read(Step):
    """Documents of the files of a share."""

    name = "read"

    def __init__(
        self,
        files: Sequence[Sequence[RawFile]],
        origins: Sequence[Origin],
        bad_rows: int,
        scratch: Path,
        ledger: Ledger,
    ) -> None:
        """``files`` are those of each share; ``bad_rows`` is how many rows may be passed over; in ``scratch`` archives are unpacked, a file at a time."""
        super().__init__(ledger)
        self.shares, self.origins, self.bad_rows, self.scratch = Shares(files), origins, bad_rows, scratch
        self._bad = 0

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        taken: dict[int, list[int]] = {}
        for file in self.shares[rank]:
            so_far = taken.setdefault(file.source, [0, 0])
            if file.kind in archives.KINDS:
                yield from self._unpacked(file, so_far, self.scratch / f"{rank:05d}")
            else:
                yield from self._read(file, so_far)

    def _unpacked(self, archive: RawFile, so_far: list[int], scratch: Path) -> Iterator[Document]:
        """What tells of the unpacked file tells of its place in the archive instead."""
        source, field = self.origins[archive.source].spec, self.origins[archive.source].field
        for name, path in archives.members(archive.path, archive.kind, scratch):
            where = f"{shown(archive.path)}, {name}"
            file = shares.raw_file(archive.source, source, path, f"{archive.name}/{name}", field)
            unread = (
                *archives.KINDS,
                *(shares.WITHOUT_ROWS if self.origins[archive.source].holds_conversations else ()),
            )
            if file is None or file.kind in unread:
                self.ledger.note("files of archives were not read", where)
                continue
            try:
                yield from self._read(file, so_far, where)
            except DataError as error:
                raise DataError(str(error).replace(shown(path), where)) from error

    def _read(self, file: RawFile, so_far: list[int], where: str = "") -> Iterator[Document]:
        """The documents of a file, until its source has enough."""
        origin = self.origins[file.source]
        if is_bounded(origin.spec) and _is_enough(origin, so_far):
            return
        tally = Tally()
        read = talks.conversations if origin.holds_conversations else reading.documents
        for item in read(file, origin.spec, tally):
            if isinstance(item, tuple):
                self._bad_row(file, *item, where or shown(file.path))
                continue
            size = size_of(item.text)
            self.ledger.count(origin.name, READ, "", item.text, size)
            so_far[0] += 1
            so_far[1] += size
            name = f"{origin.name}/{file.name}, {item.place}"
            self.ledger.excerpt(origin.name, READ, name, item.text)
            yield document_of(item.text, name, file.source, item.row)
            if is_bounded(origin.spec) and _is_enough(origin, so_far):
                break
        for problem, count in tally.problems.items():
            first = tally.examples[problem]
            self.ledger.note(problem, first.replace(shown(file.path), where) if where else first, count)

    def _bad_row(self, file: RawFile, place: str, reason: str, path: str) -> None:
        self._bad += 1
        where = f"{path}, {place}: {reason}"
        if self._bad > self.bad_rows:
            more = f" (row {self._bad} that cannot be used, and maxBadRows is {self.bad_rows})" if self.bad_rows else ""
            raise DataError(f"{where}{more}")
        origin = self.origins[file.source].name
        self.ledger.note("rows that cannot be used were passed over", where)
        self.ledger.count(origin, READ, "", "", 0)
        self.ledger.dropped(origin, BAD_ROW, f"{origin}/{file.name}, {place}", "", 0)


def _is_enough(origin: Origin, so_far: Sequence[int]) -> bool:
    source = origin.spec
    documents, size = so_far
    return (source.max_documents is not None and documents >= source.max_documents) or (
        source.max_bytes is not None and size >= source.max_bytes
    )


class Clean(Step):
    """Every rule, in order."""

    name = "clean"

    def __init__(self, rules: Sequence[Rule], origins: Sequence[Origin], ledger: Ledger) -> None:
        super().__init__(ledger)
        self.rules, self.origins = rules, origins

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in data:
            source = self.origins[document.metadata["source"]].name
            if self._cleaned(document, source):
                yield document

    def _cleaned(self, document: Document, source: str) -> bool:
        """Whether something is left of it."""
        for rule in self.rules:
            after = _applied(rule, document)
            if after is None:
                self.ledger.dropped(source, rule.name, document.id, document.text)
                return False
            if after is not document.text and after != document.text:
                self.ledger.changed(source, rule.name, document.id, document.text, after)
                document.text = after
        reason = _lacking(document)
        if reason is not None:
            self.ledger.dropped(source, reason, document.id, document.text)
        return reason is None


def _applied(rule: Rule, document: Document) -> str | None:
    """What becomes of the text of a document; the messages of a conversation become what it says."""
    row = document.metadata.get("row")
    if row is None:
        return rule.apply(document.text)
    cleaned = talks.applied(rule.apply, row)
    if cleaned is None:
        return None
    document.metadata["row"] = cleaned
    return talks.said(cleaned)


def _lacking(document: Document) -> str | None:
    """Why there is nothing to learn from a document."""
    if not document.text or document.text.isspace():
        return EMPTY
    row = document.metadata.get("row")
    return NO_ANSWER if row is not None and not talks.has_answer(row) else None


class Filter(Step):
    """Documents that pass every filter."""

    name = "filter"

    def __init__(self, filters: Filters, origins: Sequence[Origin], ledger: Ledger) -> None:
        super().__init__(ledger)
        self.filters, self.origins = filters, origins

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in data:
            reason = measures.failed(self.filters, document.text)
            if reason is None:
                yield document
            else:
                self.ledger.dropped(self.origins[document.metadata["source"]].name, reason, document.id, document.text)


class Decontaminate(Step):
    """Documents that hold no row of an evaluation set."""

    name = "decontaminate"

    def __init__(self, asked: Decontamination, rows: Path, origins: Sequence[Origin], ledger: Ledger) -> None:
        super().__init__(ledger)
        self.asked, self.rows, self.origins = asked, rows, origins

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        held_out = HeldOut.load(self.rows, self.asked.share)
        for document in data:
            if held_out.is_in(near.runs(document.text, self.asked.ngram)):
                source = self.origins[document.metadata["source"]].name
                self.ledger.dropped(source, HELD_OUT, document.id, document.text)
            else:
                yield document


class Store(Step):
    """Documents into a file of the stage, and on to the next step; then what was counted."""

    name = "store"

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.folder = folder

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        (self.folder / CLEANED).mkdir(parents=True, exist_ok=True)
        with (
            LinesWriter(self.folder / CLEANED / f"{rank:05d}.jsonl", "zstd") as out,
            on_disk.Records(self.folder / HASHES / f"{rank:05d}.hashes", HASH) as hashes,
            on_disk.Records(self.folder / SIZES / f"{rank:05d}.sizes", SIZE) as sizes,
        ):
            for document in data:
                out.write({"id": document.id, "text": document.text, **document.metadata})
                hashes.write(number_of(talks.compared(document)))
                sizes.write((document.metadata["source"], size_of(document.text)))
                yield document
        save_ledger(self.folder, rank, self.ledger)


def document_of(text: str, name: str, source: int, row: dict[str, Any] | None = None) -> Document:
    """A document as all steps know it; ``row`` is there for conversations."""
    return Document(text=text, id=name, metadata={"source": source} | ({"row": row} if row is not None else {}))


def number_of(text: str) -> int:
    """64 bits that stand for a text."""
    import xxhash

    return int(xxhash.xxh3_64_intdigest(text.encode()))


def save_ledger(folder: Path, rank: int, ledger: Ledger) -> None:
    (folder / LEDGERS).mkdir(parents=True, exist_ok=True)
    text = json.dumps(ledger.as_json(), ensure_ascii=False)
    atomic.write_text(folder / LEDGERS / f"{rank:05d}.json", text)


def ledgers(folder: Path, tasks: int) -> Ledger:
    """What all shares of a stage counted."""
    whole = Ledger()
    for rank in range(tasks):
        found = json.loads((folder / LEDGERS / f"{rank:05d}.json").read_text(encoding="utf-8"))
        whole.merge(Ledger.of_json(found))
    return whole


class Load(PipelineStep):
    """The documents that `Store` wrote, in their order: comparisons speak of them by number."""

    type = "Corpus"
    name = "load"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        with open_bytes(self.folder / CLEANED / f"{rank:05d}.jsonl.zst") as stream:
            for line in stream:
                row = json.loads(line)
                yield document_of(row["text"], row["id"], row["source"], row.get("row"))


class Join(PipelineStep):
    """The files of a share of one of two stages that stored documents, under the number that it has among the shares of both."""

    type, name = "Corpus", "join"

    def __init__(self, first: Path, second: Path, folder: Path, products: Sequence[str], shares: int) -> None:
        """``shares`` is how many the first has."""
        super().__init__()
        self.first, self.second, self.folder, self.products, self.shares = first, second, folder, products, shares

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        stage, number = (self.first, rank) if rank < self.shares else (self.second, rank - self.shares)
        for product in self.products:
            for file in sorted(stage.glob(product.format(rank=number))):
                name = file.name.replace(f"{number:05d}", f"{rank:05d}", 1)
                target = self.folder / file.parent.relative_to(stage) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(file, target)


def _link(file: Path, target: Path) -> None:
    """One file under two names, or twice where the file system does not bear that."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


class Compared(PipelineStep):
    """Documents as they are compared: the question of a conversation takes the place of its text. `length` is that of the whole."""

    type, name = "Corpus", "compared"

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in data:
            text, length = talks.compared(document), len(document.text)
            yield Document(text=text, id=document.id, metadata={**document.metadata, "length": length})


class Dropped:
    """Takes the place of datatrove's writer of what a comparison leaves out: counts it, and keeps examples."""

    def __init__(self, reason: str, origins: Sequence[Origin], ledger: Ledger) -> None:
        self.reason, self.origins, self.ledger = reason, origins, ledger

    def __enter__(self) -> Dropped:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def write(self, document: Document, rank: int = 0, **_: Any) -> None:
        source = self.origins[document.metadata["source"]].name
        self.ledger.dropped(source, self.reason, document.id, document.text)


def bad_rows_of(ledger: Ledger) -> int:
    return ledger.total("dropped", BAD_ROW).documents
