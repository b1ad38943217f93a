"""How datatrove tells that two documents are equal, and which of them stays. Its own steps hold a number for each document of a share in memory;
in these, files do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig, ExactDedupFilter, ExactDedupSignature, get_sig_dtype
from datatrove.utils.hashing import HashConfig

from workloads.curation import on_disk, talks
from workloads.curation.steps import Documents, Dropped

SIGNATURE = get_sig_dtype(HashConfig())
"""Of a document: what its text hashes to, its priority, its number."""


def text_of(document: Any) -> str:
    """What two documents have to have in common to be equal."""
    return "".join(talks.compared(document).split())


@dataclass(frozen=True)
class Priority:
    """Of equal documents that of an earlier corpus stays, else that of the source named first."""

    sources: int

    def __call__(self, document: Any) -> int:
        source = int(document.metadata["source"])
        return 65535 if source >= self.sources else 65534 - source


def config(sources: int) -> ExactDedupConfig:
    """``sources`` is how many are named, after which come earlier corpora."""
    return ExactDedupConfig(content_getter=text_of, document_priority=Priority(sources))


MOST = (1 << 16) - 1
"""Of a priority. Lower numbers are sorted first: what is sorted is how much a priority lacks to this."""


class Signatures(ExactDedupSignature):
    """The first stage: signatures sorted by hash, priority and number, those of each part of all hashes in a file of their own."""

    def __init__(self, folder: Path, config: ExactDedupConfig, finder_workers: int) -> None:
        super().__init__(str(folder), config, finder_workers)
        self.folder = folder

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            signatures = on_disk.Records(file, SIGNATURE)
            for index, document in enumerate(data):
                [(number, priority, _)] = self.get_hashes(document, index)
                signatures.write((number, MOST - priority, index))
            signatures.flush()
            on_disk.sort(file, SIGNATURE, self.folder)
            self._part(file, rank)

    def _part(self, file: Any, rank: int) -> None:
        paths = [self.folder / f"{part:04d}" / f"{rank:05d}.c4_sig" for part in range(self.finder_workers)]
        outs = [on_disk.Records(path, SIGNATURE) for path in paths]
        width = np.uint64(self.config.hash_config.max // self.finder_workers)
        for signatures in on_disk.parts(file, SIGNATURE):
            signatures["priority"] = MOST - signatures["priority"]
            places = np.minimum(signatures["hash"] // width, np.uint64(self.finder_workers - 1))
            for place in np.unique(places).tolist():
                outs[place].extend(signatures[places == place])
        for out in outs:
            out.close()


class Filter(ExactDedupFilter):
    """The last stage: documents that no other one is preferred to."""

    def __init__(self, folder: Path, config: ExactDedupConfig, dropped: Dropped | None = None) -> None:
        super().__init__(str(folder), config)
        self.folder, self.dropped = folder, dropped

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        self.folder.mkdir(parents=True, exist_ok=True)
        gone = on_disk.numbers(duplicates(self.folder, rank), "<u4", self.folder)
        following = next(gone, None)
        with self.dropped or nullcontext():
            for index, document in enumerate(data):
                if index != following:
                    yield document
                    continue
                following = next(gone, None)
                if self.dropped is not None:
                    self.dropped.write(document, rank)
        assert following is None, "numbers of documents that this share does not have"


def duplicates(folder: Path, rank: int) -> list[Path]:
    """The files of the second stage that hold the numbers of the documents of a share which go."""
    return sorted(folder.glob(f"*/{rank:05d}.c4_dup"))
