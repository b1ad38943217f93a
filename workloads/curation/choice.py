"""Which documents are set aside for validation, and how often the others stand in the corpus.

For validation are those whose numbers are the smallest, drawn by the seed, after duplicates are out. How often a document is repeated is said by the
weight of its source: the spec's, or one that follows from how much of each source there is.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from alpaca_operator.api.dataset import DatasetSpec
from workloads.curation import equal, on_disk
from workloads.curation.steps import HASH, HASHES, SIZE, SIZES, number_of
from workloads.system import atomic
from workloads.system.drawing import draw

CHOICE = "choice.json"
MASK = (1 << 64) - 1
FOR_WEIGHTS = 0x5DEECE66D
"""Draws by weight are others than those for validation."""
Numbers = np.ndarray[Any, np.dtype[np.uint64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


def draw_one(number: int, seed: int) -> int:
    """As `drawing.draw`, for a single number, which numpy takes ten times as long for."""
    mixed = (number + (seed + 1) * 0x9E3779B97F4A7C15) & MASK
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & MASK
    return mixed ^ (mixed >> 31)


def at_place(parts: Callable[[], Iterable[Numbers]], place: int) -> int:
    """The number that would stand at ``place`` if all were sorted. They are gone over four times, 16 bits at a time, so that none has to be kept."""
    found = 0
    for shift in (48, 32, 16, 0):
        counts = np.zeros(1 << 16, dtype=np.int64)
        for part in parts():
            within = part if shift == 48 else part[part >> np.uint64(shift + 16) == np.uint64(found)]
            digits = (within >> np.uint64(shift)) & np.uint64(0xFFFF)
            counts += np.bincount(digits.astype(np.int64), minlength=1 << 16)
        until = np.cumsum(counts)
        digit = int(np.searchsorted(until, place, "right"))
        place -= int(until[digit] - counts[digit])
        found = found << 16 | digit
    return found


class Removed:
    """What the comparisons leave out of a share, by the number of the document."""

    def __init__(self, exact: Path | None, near: Path | None = None) -> None:
        self._exact, self._near = exact, near

    def kept(self, rank: int, count: int, folder: Path) -> Iterator[tuple[slice, Flags]]:
        """Which of the ``count`` documents of a share stay, some documents at a time. In ``folder`` is room."""
        goes = self._equal(rank, count, folder)
        file = None if self._near is None else self._near / f"{rank:06d}.remove"
        alike = on_disk.mapped(file, "<u4") if file is not None and file.is_file() else np.empty(0, dtype="<u4")
        before = 0
        for span in on_disk.spans(count):
            stays = ~goes[span]
            left = np.flatnonzero(stays)  # the second comparison counts what the first had left
            start, end = np.searchsorted(alike, (before, before + len(left)))
            stays[left[alike[start:end] - before]] = False
            before += len(left)
            yield span, stays

    def _equal(self, rank: int, count: int, folder: Path) -> Flags:
        goes = on_disk.scratch(folder, np.bool_, count)
        for file in equal.duplicates(self._exact, rank) if self._exact is not None else ():
            for part in on_disk.chunks(file, "<u4"):
                goes[part] = True
        return goes


class Choose(PipelineStep):
    """One share over all: finds the number up to which documents are for validation."""

    type = "Corpus"
    name = "choose"

    def __init__(self, cleaned: Path, folder: Path, removed: Removed, spec: DatasetSpec, shares: int) -> None:
        super().__init__()
        self.cleaned, self.folder, self.removed = cleaned, folder, removed
        self.split, self.mixing, self.seed, self.shares = spec.split, spec.mixing, spec.seed, shares
        self.weights = [source.weight for source in spec.sources]

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        with tempfile.TemporaryFile(dir=self.folder) as file:
            for numbers, _ in self._documents():
                draw(numbers, self.seed).astype(HASH).tofile(file)
            kept = file.tell() // HASH.itemsize
            wanted = self._wanted(kept)
            limit = at_place(lambda: on_disk.parts(file, HASH), wanted - 1) if wanted else None
        weights = self.weights
        if self.mixing.temperature is not None:
            epochs = self.mixing.epochs_per_source or EPOCHS
            weights = tempered(self._bytes(limit), self.mixing.temperature, epochs)
        text = json.dumps({"documents": kept, "validation": wanted, "limit": limit, "weights": weights})
        atomic.write_text(self.folder / CHOICE, text)

    def _documents(self) -> Iterator[tuple[Numbers, on_disk.Array]]:
        """The numbers, and the sources and sizes, of documents that stay, some at a time."""
        for share in range(self.shares):
            numbers = on_disk.mapped(self.cleaned / HASHES / f"{share:05d}.hashes", HASH)
            sizes = on_disk.mapped(self.cleaned / SIZES / f"{share:05d}.sizes", SIZE)
            for span, stays in self.removed.kept(share, len(numbers), self.folder):
                yield np.asarray(numbers[span][stays], dtype=np.uint64), sizes[span][stays]

    def _bytes(self, limit: int | None) -> list[int]:
        """Bytes of each source that are for training."""
        found = np.zeros(len(self.weights), dtype=np.uint64)
        for numbers, sizes in self._documents():
            trained = sizes if limit is None else sizes[draw(numbers, self.seed) > np.uint64(limit)]
            np.add.at(found, trained["source"], trained["bytes"].astype(np.uint64))
        return [int(size) for size in found]

    def _wanted(self, kept: int) -> int:
        """Documents to set aside. One at least, where there are two, and half of them at most."""
        asked = self.split.validation_documents
        if self.split.validation_share is not None:
            asked = max(1, round(self.split.validation_share * kept))
        return 0 if asked is None else min(asked, kept // 2)


EPOCHS = 4
"""Repetitions up to which a token that is seen again teaches about as much as a new one (Muennighoff et al. 2023, arXiv:2305.16264)."""


def tempered(sizes: Sequence[int], temperature: float, most: float) -> list[float]:
    """A weight for each source, so that they are drawn in proportion to ``sizes`` to the power of 1/T (Arivazhagan et al. 2019,
    arXiv:1907.05019): the largest source stands in the corpus once, smaller ones more often, ``most`` times at most."""
    largest = max(sizes)
    return [round(min(most, (size / largest) ** (1 / temperature - 1)), 6) if size else 1.0 for size in sizes]


class Chooser:
    """Tells of a text whether it is for validation."""

    def __init__(self, file: Path, seed: int) -> None:
        chosen = json.loads(file.read_text(encoding="utf-8"))
        self._limit = chosen["limit"]
        self.weights: list[float] = chosen["weights"]
        """Of each source."""
        self._seed = seed

    def is_validation(self, text: str) -> bool:
        return self._limit is not None and draw_one(number_of(text), self._seed) <= self._limit

    def copies(self, text: str, weight: float) -> int:
        """How often a document of a source with this weight stands in the corpus: on the average as often as it says."""
        whole, rest = divmod(weight, 1)
        return int(whole) + (rest > 0 and draw_one(number_of(text) ^ FOR_WEIGHTS, self._seed) < rest * (MASK + 1))
