"""How datatrove tells that two documents are equal, and which of them stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig, ExactDedupSignature, get_sig_dtype
from datatrove.utils.hashing import HashConfig

from workloads.curation import on_disk, talks
from workloads.curation.steps import Documents

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


class Signatures(ExactDedupSignature):
    """datatrove's first stage, which keeps the numbers of a share as numbers: as Python's objects they take ten times the room."""

    def run(self, data: Documents, rank: int = 0, world_size: int = 1) -> None:
        found: list[on_disk.Array] = []
        rows: list[tuple[int, int, int]] = []
        for index, document in enumerate(data):
            rows += self.get_hashes(document, index)
            if len(rows) == on_disk.AT_ONCE:
                found.append(np.array(rows, dtype=SIGNATURE))
                rows = []
        found.append(np.array(rows, dtype=SIGNATURE))
        self.save_hashes(rank, np.concatenate(found))
