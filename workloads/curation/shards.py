"""The last steps: documents into the files of the output, which each reader of ours opens by the names of their splits.

Unshuffled, each share writes files of its own. Shuffled, each document gets a number, and the shares put documents into buckets by it; each bucket is
then written in the order of the numbers, a document at a time. So the order depends on the seed alone, and no more than numbers is held in memory.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from workloads.curation import measures, on_disk, talks
from workloads.curation.choice import Chooser
from workloads.curation.ledger import KEPT, REPEATED, VALIDATION, Ledger, drawn, size_of
from workloads.curation.packing import LinesWriter, ParquetWriter
from workloads.curation.shares import Origin
from workloads.curation.steps import Documents, Step, save_ledger

TRAIN_FOLDER, VALIDATION_FOLDER = "train", "validation"
PARTS = (TRAIN_FOLDER, VALIDATION_FOLDER)
NOT_DRAWN = "not drawn by the weight of its source"
COLUMNS = {"Text": ("text", "source", "id"), "Conversations": ("messages", "tools", "row", "source", "id")}
"""What a row has, by the content of the corpus."""
BUCKET_BYTES, MOST_BUCKETS = 64 << 20, 256
"""Of files of the sources for each bucket of a shuffle."""
DRAWN_BITS = 63


class Target(Protocol):
    """Where rows go."""

    def write(self, part: str, copy: int, row: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class Form:
    """How files of the output are written."""

    def __init__(self, file_format: str, compression: str, shard_bytes: int, content: str) -> None:
        self.format, self.compression, self.shard_bytes = file_format, compression, shard_bytes
        self.columns = COLUMNS[content]

    def open(self, path: Path) -> LinesWriter | ParquetWriter:
        """A file with the ending of its format."""
        if self.format == "Parquet":
            return ParquetWriter(path.with_name(f"{path.name}.parquet"), self.compression, self.columns)
        return LinesWriter(path.with_name(f"{path.name}.jsonl"), self.compression)


class Write(Step):
    """Each document to where its part is written, as often as it shall stand there."""

    name = "write"

    def __init__(
        self,
        folder: Path,
        choice: Path,
        seed: int,
        target: Files | Scattered,
        origins: Sequence[Origin],
        ledger: Ledger,
    ) -> None:
        super().__init__(ledger)
        self.folder, self.choice, self.seed = folder, choice, seed
        self.target, self.origins = target, origins

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        chooser = Chooser(self.choice, self.seed)
        target = self.target.opened(rank)
        for document in data:
            number = document.metadata["source"]
            compared = talks.compared(document)
            held_out = chooser.is_validation(compared)
            copies = 1 if held_out else chooser.copies(compared, chooser.weights[number])
            source = self.origins[number].name
            said = document.metadata.get("row") or {"text": document.text}
            for copy in range(copies):
                row = {**said, "source": source, "id": document.id}
                target.write(VALIDATION_FOLDER if held_out else TRAIN_FOLDER, copy, row)
            self._count(document, source, held_out, copies)
            yield document
        target.close()
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
        self.ledger.excerpt(source, KEPT, document.id, text)
        self.ledger.spread[source, "length", len(text).bit_length()] += 1
        self.ledger.spread[source, "chinese", int(10 * measures.chinese_share(text))] += 1


class Files:
    """The files of the output themselves: those of each share. Copies of documents stand apart, so that no block of training holds one twice."""

    def __init__(self, folder: Path, form: Form) -> None:
        self.folder, self.form = folder, form

    def opened(self, rank: int) -> Target:
        return _Files(self.folder, self.form, rank)


class _Files:
    def __init__(self, folder: Path, form: Form, rank: int) -> None:
        self._folder, self._form, self._rank = folder, form, rank
        self._parts: dict[tuple[str, int], _Part] = {}

    def write(self, part: str, copy: int, row: dict[str, Any]) -> None:
        if (part, copy) not in self._parts:
            name = f"{self._rank:05d}-" + (f"copy-{copy}-" if copy else "")
            self._parts[part, copy] = _Part(self._folder / part, name, self._form)
        self._parts[part, copy].write(row)

    def close(self) -> None:
        for part in self._parts.values():
            part.close()


class _Part:
    """Files of one part of the corpus, each up to a size."""

    def __init__(self, folder: Path, name: str, form: Form) -> None:
        self._folder, self._name, self._form = folder, name, form
        self._out: LinesWriter | ParquetWriter | None = None
        self._number = 0

    def write(self, row: dict[str, Any]) -> None:
        if self._out is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._out = self._form.open(self._folder / f"{self._name}{self._number:05d}")
            self._number += 1
        self._out.write(row)
        if self._out.size >= self._form.shard_bytes:
            self.close()

    def close(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None


# Shuffled

PLACE = np.dtype([("number", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("part", "u1")])
"""Of a row in a file of its bucket."""
ORDERED = np.dtype([("number", "<u8"), ("file", "<u4"), ("offset", "<u8"), ("length", "<u4"), ("part", "u1")])
"""The same of the rows of all files of a bucket, which stand by their numbers, and copies of one document by what comes after these."""


def buckets(size: int) -> int:
    """Of a shuffle, for sources of ``size`` bytes."""
    return max(1, min(MOST_BUCKETS, -(-size // BUCKET_BYTES)))


class Scattered:
    """Files of buckets, in which rows lie as they came, each with the number that says where it will stand."""

    def __init__(self, folder: Path, count: int, seed: int) -> None:
        self.folder, self.count, self.seed = folder, count, seed

    def opened(self, rank: int) -> Target:
        return _Scattered(self.folder, self.count, self.seed, rank)


class _Scattered:
    def __init__(self, folder: Path, count: int, seed: int, rank: int) -> None:
        self._folder, self._count, self._seed, self._rank = folder, count, seed, rank
        self._files: dict[int, BinaryIO] = {}
        self._places: dict[int, on_disk.Records] = {}

    def write(self, part: str, copy: int, row: dict[str, Any]) -> None:
        number = drawn(self._seed, "shuffle", row["id"], str(copy))
        bucket = number * self._count >> DRAWN_BITS
        if bucket not in self._files:
            path = self._path(bucket)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[bucket] = path.open("wb")
            self._places[bucket] = on_disk.Records(path.with_suffix(".places"), PLACE)
        line = json.dumps(row, ensure_ascii=False).encode()
        self._places[bucket].write((number, self._files[bucket].tell(), len(line), PARTS.index(part)))
        self._files[bucket].write(line)

    def close(self) -> None:
        for bucket, file in self._files.items():
            file.close()
            self._places[bucket].close()

    def _path(self, bucket: int) -> Path:
        return self._folder / f"{bucket:04d}" / f"{self._rank:05d}.rows"


class Gather(PipelineStep):
    """One bucket into files of the output, in the order of the numbers."""

    type, name = "Corpus", "gather"

    def __init__(self, scattered: Path, folder: Path, form: Form) -> None:
        super().__init__()
        self.scattered, self.folder, self.form = scattered, folder, form

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        files = sorted((self.scattered / f"{rank:04d}").glob("*.rows"))
        target = Files(self.folder, self.form).opened(rank)
        with tempfile.TemporaryFile(dir=self.folder) as places, ExitStack() as opened:
            for number, file in enumerate(files):
                for part in on_disk.chunks(file.with_suffix(".places"), PLACE):
                    found = np.zeros(len(part), dtype=ORDERED)
                    found["file"] = number
                    for name in PLACE.fields or ():
                        found[name] = part[name]
                    found.tofile(places)
            on_disk.sort(places, ORDERED, self.folder)
            streams = [opened.enter_context(file.open("rb")) for file in files]
            for part in on_disk.parts(places, ORDERED):
                for _, place, offset, length, split in part.tolist():
                    streams[place].seek(offset)
                    target.write(PARTS[split], 0, json.loads(streams[place].read(length)))
        target.close()
