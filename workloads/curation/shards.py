"""The last step: documents into the files of the output, which each reader of ours opens by the names of their splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datatrove.data import Document

from workloads.curation import measures
from workloads.curation.choice import Chooser
from workloads.curation.ledger import KEPT, VALIDATION, Ledger, size_of
from workloads.curation.packing import LinesWriter
from workloads.curation.shares import Origin
from workloads.curation.steps import Documents, Step, save_ledger

TRAIN_FOLDER, VALIDATION_FOLDER = "train", "validation"


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
        parts = {
            name: _Part(self.folder / name, rank, self.shard_bytes, self.compression)
            for name in (TRAIN_FOLDER, VALIDATION_FOLDER)
        }
        for document in data:
            source = self.origins[document.metadata["source"]].name
            held_out = chooser.is_validation(document.text)
            part = parts[VALIDATION_FOLDER if held_out else TRAIN_FOLDER]
            part.write({"text": document.text, "source": source, "id": document.id})
            self.ledger.count(source, VALIDATION if held_out else KEPT, "", document.text, size_of(document.text))
            self.ledger.spread[source, "length", len(document.text).bit_length()] += 1
            self.ledger.spread[source, "chinese", int(10 * measures.chinese_share(document.text))] += 1
            yield document
        for part in parts.values():
            part.close()
        save_ledger(self.folder, rank, self.ledger)


class _Part:
    """Files of one part of the corpus that a share makes, each up to a size."""

    def __init__(self, folder: Path, rank: int, shard_bytes: int, compression: str) -> None:
        self._folder, self._rank, self._limit, self._compression = folder, rank, shard_bytes, compression
        self._out: LinesWriter | None = None
        self._number = 0

    def write(self, row: dict[str, Any]) -> None:
        if self._out is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{self._rank:05d}-{self._number:05d}.jsonl"
            self._out = LinesWriter(path, self._compression)
            self._number += 1
        self._out.write(row)
        if self._out.size >= self._limit:
            self.close()

    def close(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None
