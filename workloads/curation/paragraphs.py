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

from workloads.curation import near
from workloads.curation.ledger import Ledger
from workloads.curation.shares import Origin
from workloads.curation.steps import Documents, Step, number_of
from workloads.system import atomic

LEAST = 20
"""Letters and digits of a line that is compared: shorter ones, such as headings and what people say, may well stand in many documents."""
BUCKET_BYTES, MOST_BUCKETS = 256 << 20, 1024
"""Of files for each bucket: packed ones hold up to eight times as much text, whose lines take a third of it in memory."""
RULE, SENTENCE = "repeated-paragraphs", "Lines that stand in an earlier document are taken out."
CHINESE = "去掉前面的文章里已有的行。"
NOTHING_ELSE = "nothing but lines of earlier documents"
LINE = np.dtype([("hash", "<u8"), ("document", "<u4"), ("line", "<u4")])


def buckets(size: int) -> int:
    """Parts in which lines of files of ``size`` bytes are compared."""
    return max(1, min(MOST_BUCKETS, -(-size // BUCKET_BYTES)))


def _save(path: Path, values: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = atomic.partial_beside(path)
    with partial.open("wb") as out:
        np.save(out, values)
    partial.replace(path)


class Mark(Step):
    """A number for each long line of each document of a share."""

    name = "mark"

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(Ledger())
        self.folder, self.count = folder, count

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        found: list[np.ndarray[Any, Any]] = []
        for index, document in enumerate(data):
            lines = [
                (number_of("".join(line.split())), index, number)
                for number, line in enumerate(document.text.split("\n"))
                if len(line) >= LEAST and len(near.plain(line)) >= LEAST
            ]
            found.append(np.array(lines, dtype=LINE))
            yield document
        together = np.concatenate([np.empty(0, dtype=LINE), *found])
        parts = together["hash"] % np.uint64(self.count)
        for bucket in range(self.count):
            _save(self.folder / f"{bucket:04d}" / f"{rank:05d}.npy", together[parts == bucket])


class Match(Step):
    """One bucket: which lines stand in an earlier document, be it of an earlier corpus or of a share before."""

    name = "match"

    def __init__(self, marked: Path, folder: Path, shares: int, own: int) -> None:
        super().__init__(Ledger())
        self.marked, self.folder, self.shares, self.own = marked, folder, shares, own

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        order = [*range(self.own, self.shares), *range(self.own)]
        parts = [np.load(self.marked / f"{rank:04d}" / f"{share:05d}.npy") for share in order]
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
                found = np.sort(lines[repeated[places[repeated] == place]][["document", "line"]])
                _save(self.folder / f"{rank:04d}" / f"{share:05d}.npy", found)


class Remove(Step):
    """Documents without the lines that were found."""

    name = "remove"

    def __init__(self, matched: Path, origins: Sequence[Origin], ledger: Ledger) -> None:
        super().__init__(ledger)
        self.matched, self.origins = matched, origins

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        repeated: dict[int, set[int]] = {}
        for file in sorted(self.matched.glob(f"*/{rank:05d}.npy")):
            for index, line in np.load(file).tolist():
                repeated.setdefault(index, set()).add(line)
        for index, document in enumerate(data):
            if index not in repeated or self._is_left(document, repeated[index]):
                yield document

    def _is_left(self, document: Document, repeated: set[int]) -> bool:
        """Takes the lines out; whether something else is left of the document."""
        source = self.origins[document.metadata["source"]].name
        before = document.text
        lines = (line for number, line in enumerate(before.split("\n")) if number not in repeated)
        document.text = "\n".join(lines).strip("\n")
        self.ledger.changed(source, RULE, document.id, before, document.text)
        if document.text.strip():
            return True
        self.ledger.dropped(source, NOTHING_ELSE, document.id, document.text)
        return False
