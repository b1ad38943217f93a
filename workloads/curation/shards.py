"""The last step: documents into the files of the output, which each reader of ours opens by the names of their splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datatrove.data import Document

from workloads.curation import measures
from workloads.curation.choice import Chooser
from workloads.curation.ledger import KEPT, REPEATED, VALIDATION, Ledger, size_of
from workloads.curation.packing import LinesWriter
from workloads.curation.shares import Origin
from workloads.curation.steps import Documents, Step, save_ledger

TRAIN_FOLDER, VALIDATION_FOLDER = "train", "validation"
NOT_DRAWN = "not drawn by the weight of its source"


class Write(Step):
    """Each document into a file of its part."""

    name = "write"

    def __init__(
        self,
        folder: Path,
        choice: Path,
        seed: int,
        shard_bytes: int,
        compression: str,
        origins: Sequence[Origin],
        ledger: Ledger,
    ) -> None:
        super().__init__(ledger)
        self.folder, self.choice, self.seed = folder, choice, seed
        self.shard_bytes, self.compression, self.origins = shard_bytes, compression, origins

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        chooser = Chooser(self.choice, self.seed)
        parts: dict[tuple[str, int], _Part] = {}
        for document in data:
            origin = self.origins[document.metadata["source"]]
            held_out = chooser.is_validation(document.text)
            copies = 1 if held_out else chooser.copies(document.text, origin.spec.weight)
            for number in range(copies):
                key = (VALIDATION_FOLDER if held_out else TRAIN_FOLDER, number)
                if key not in parts:
                    parts[key] = _Part(self.folder / key[0], rank, number, self.shard_bytes, self.compression)
                parts[key].write({"text": document.text, "source": origin.name, "id": document.id})
            self._count(document, origin.name, held_out, copies)
            yield document
        for part in parts.values():
            part.close()
        save_ledger(self.folder, rank, self.ledger)

    def _count(self, document: Document, source: str, held_out: bool, copies: int) -> None:
        text = document.text
        if not copies:
            self.ledger.dropped(source, NOT_DRAWN, document.id, text)
            return
        size = size_of(text)
        self.ledger.count(source, VALIDATION if held_out else KEPT, "", text, size)
        for _ in range(copies - 1):
            self.ledger.count(source, REPEATED, "", text, size)
        self.ledger.spread[source, "length", len(text).bit_length()] += 1
        self.ledger.spread[source, "chinese", int(10 * measures.chinese_share(text))] += 1


class _Part:
    """Files of one part of the corpus that a share makes, each up to a size. Copies of documents stand apart, so that no block of training
    holds one twice."""

    def __init__(self, folder: Path, rank: int, copy: int, shard_bytes: int, compression: str) -> None:
        self._folder, self._limit, self._compression = folder, shard_bytes, compression
        self._name = f"{rank:05d}-" + (f"copy-{copy}-" if copy else "")
        self._out: LinesWriter | None = None
        self._number = 0

    def write(self, row: dict[str, Any]) -> None:
        if self._out is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{self._name}{self._number:05d}.jsonl"
            self._out = LinesWriter(path, self._compression)
            self._number += 1
        self._out.write(row)
        if self._out.size >= self._limit:
            self.close()

    def close(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None
