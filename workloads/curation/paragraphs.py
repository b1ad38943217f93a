"""Lines that stand in an earlier document are taken out of a later one.

datatrove has such steps for sentences; they number no more than 65,535 of a document, keep what comes first in any file instead of in the order of
the sources, and do not say what was taken out of which document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document

from alpaca_operator.api.dataset import Filters
from workloads.curation import measures, near, on_disk
from workloads.curation.ledger import Ledger
from workloads.curation.shares import Origin
from workloads.curation.steps import Documents, Step, number_of

LEAST = 20
"""Letters and digits of a line that is compared: shorter ones, such as headings and what people say, may well stand in many documents."""
BUCKET_BYTES, MOST_BUCKETS = 256 << 20, 1024
"""Of files for each bucket: packed ones hold up to eight times as much text, whose lines take a third of it in memory."""
RULE, SENTENCE = "repeated-paragraphs", "Lines that stand in an earlier document are taken out."
CHINESE = "去掉前面的文章里已有的行。"
NOTHING_ELSE = "nothing but lines of earlier documents"
LINE = np.dtype([("hash", "<u8"), ("document", "<u4"), ("line", "<u4")])
PLACE = np.dtype("<u8")
"""Of a line: its document, and its number in that."""
LINES_AT_ONCE = 1 << 20
"""Of a bucket that are compared together: a larger one is gone over several times."""


def buckets(size: int) -> int:
    """Parts in which lines of files of ``size`` bytes are compared."""
    return max(1, min(MOST_BUCKETS, -(-size // BUCKET_BYTES)))


class Mark(Step):
    """A number for each long line of each document of a share."""

    name = "mark"

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(Ledger())
        self.folder, self.count = folder, count

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        found: list[tuple[int, int, int]] = []
        for bucket in range(self.count):
            self._path(bucket, rank).parent.mkdir(parents=True, exist_ok=True)
            self._path(bucket, rank).touch()
        for index, document in enumerate(data):
            found += [
                (number_of("".join(line.split())), index, number)
                for number, line in enumerate(document.text.split("\n"))
                if len(line) >= LEAST and len(near.plain(line)) >= LEAST
            ]
            if len(found) >= on_disk.AT_ONCE:
                self._save(rank, np.array(found, dtype=LINE))
                found = []
            yield document
        self._save(rank, np.array(found, dtype=LINE))

    def _save(self, rank: int, lines: on_disk.Array) -> None:
        """Each line behind those of its bucket."""
        parts = lines["hash"] % np.uint64(self.count)
        order = np.argsort(parts, kind="stable")
        lines, parts = lines[order], parts[order]
        buckets, starts = np.unique(parts, return_index=True)
        for bucket, some in zip(buckets.tolist(), np.split(lines, starts[1:]), strict=True):
            with self._path(bucket, rank).open("ab") as out:
                some.tofile(out)

    def _path(self, bucket: int, rank: int) -> Path:
        return self.folder / f"{bucket:04d}" / f"{rank:05d}.lines"


class Match(Step):
    """One bucket: which lines stand in an earlier document, be it of an earlier corpus or of a share before."""

    name = "match"

    def __init__(self, marked: Path, folder: Path, shares: int, own: int) -> None:
        super().__init__(Ledger())
        self.marked, self.folder, self.shares, self.own = marked, folder, shares, own

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        order = [*range(self.own, self.shares), *range(self.own)]
        marked = [self.marked / f"{rank:04d}" / f"{share:05d}.lines" for share in order]
        whole = sum(path.stat().st_size for path in marked) // LINE.itemsize
        turns = max(1, -(-whole // LINES_AT_ONCE))
        outs = [on_disk.Records(self.folder / f"{rank:04d}" / f"{share:05d}.lines", PLACE) for share in range(self.own)]
        for turn in range(turns):
            self._match([_of_turn(path, turn, turns) for path in marked], order, outs)
        for out in outs:
            out.close()

    def _match(self, parts: list[on_disk.Array], order: list[int], outs: list[on_disk.Records]) -> None:
        places = np.repeat(np.arange(len(order), dtype=np.uint64), [len(part) for part in parts])
        lines = np.concatenate(parts)
        documents = (places << np.uint64(32)) | lines["document"]
        by_hash = np.lexsort((documents, lines["hash"]))
        hashes, documents = lines["hash"][by_hash], documents[by_hash]
        is_first = np.ones(len(hashes), dtype=bool)
        is_first[1:] = hashes[1:] != hashes[:-1]
        first = documents[is_first][np.cumsum(is_first) - 1] if len(hashes) else documents
        repeated = by_hash[documents != first]
        for place, share in enumerate(order):
            if share < self.own:
                found = lines[repeated[places[repeated] == place]]
                outs[share].extend(near.key(found["document"], found["line"]))


def _of_turn(path: Path, turn: int, turns: int) -> on_disk.Array:
    """Of the lines of a file those that are compared in this turn: equal ones are in the same."""
    found = [np.empty(0, dtype=LINE)]
    for part in on_disk.chunks(path, LINE):
        found.append(part if turns == 1 else part[(part["hash"] >> np.uint64(32)) % np.uint64(turns) == turn])
    return np.concatenate(found)


class Remove(Step):
    """Documents without the lines that were found."""

    name = "remove"

    def __init__(self, matched: Path, filters: Filters, origins: Sequence[Origin], ledger: Ledger) -> None:
        super().__init__(ledger)
        self.matched, self.filters, self.origins = matched, filters, origins

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        found = on_disk.numbers(sorted(self.matched.glob(f"*/{rank:05d}.lines")), PLACE, self.matched)
        following = next(found, None)
        for index, document in enumerate(data):
            repeated: set[int] = set()
            while following is not None and following >> 32 == index:
                repeated.add(following & 0xFFFFFFFF)
                following = next(found, None)
            if not repeated or self._is_left(document, repeated):
                yield document

    def _is_left(self, document: Document, repeated: set[int]) -> bool:
        """Takes the lines out; whether something else is left of the document, and it still passes every filter."""
        source = self.origins[document.metadata["source"]].name
        before = document.text
        lines = (line for number, line in enumerate(before.split("\n")) if number not in repeated)
        document.text = "\n".join(lines).strip("\n")
        self.ledger.changed(source, RULE, document.id, before, document.text)
        reason = measures.failed(self.filters, document.text) if document.text.strip() else NOTHING_ELSE
        if reason is not None:
            self.ledger.dropped(source, reason, document.id, document.text)
        return reason is None
