"""Of documents that are nearly alike the best stays: candidates that hang together are compared with each other by their sketches.

Who hangs together with whom is found in files, as nobody knows how many pairs a corpus has; in memory is one such group at a time.
"""

from __future__ import annotations

import heapq
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from alpaca_operator.api.dataset import NearDuplicates
from workloads.curation import near, on_disk
from workloads.curation.near import CANDIDATE, PAIR, SKETCH, Numbers
from workloads.curation.on_disk import Array
from workloads.errors import WorkloadError
from workloads.system import atomic

COMPARED = 64
"""Documents of a cluster that stay and that the next is compared with, the last of them."""
SHOWN = 20
"""Clusters that the report shows, the largest, and documents of each."""
CLUSTERS = "clusters.json"
MOST = 1 << 32
"""Candidates that can be numbered."""


@dataclass(frozen=True)
class Sketch:
    """What two documents are compared by: the smallest numbers of their runs."""

    numbers: Numbers
    is_whole: bool
    """Whether these are all."""


def similarity(one: Sketch, other: Sketch) -> float:
    """The share of the runs of both that both have, from what the sketches know of it."""
    a, b = one.numbers, other.numbers
    ends = [sketch.numbers[-1] for sketch in (one, other) if not sketch.is_whole]
    if ends:  # above the end of a sketch nobody knows what its document has
        limit = min(ends)
        a, b = a[: np.searchsorted(a, limit, "right")], b[: np.searchsorted(b, limit, "right")]
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / max(1, len(a) + len(b) - both)


class Candidates:
    """Those of all shares, numbered in the order of shares."""

    def __init__(self, sketches: Path, folder: Path) -> None:
        """``sketches`` is what `near.Sketches` wrote; in ``folder`` is room."""
        self._files = sorted(sketches.glob("*.candidates"))
        counts = [file.stat().st_size // CANDIDATE.itemsize for file in self._files]
        self.shares = [int(file.stem) for file in self._files]
        self.starts = np.cumsum([0, *counts])
        """Of each share the number of its first; then how many there are."""
        self.count = int(self.starts[-1])
        if self.count >= MOST:
            raise WorkloadError(
                f"{self.count:,} documents may be like others, and {MOST:,} can be compared: make the corpus in parts, and compare each with the "
                "earlier ones (deduplicate.against)"
            )
        self.records = on_disk.scratch(folder, CANDIDATE, self.count)
        self.keys = on_disk.scratch(folder, np.uint64, self.count)
        for file, share, start in zip(self._files, self.shares, self.starts.tolist(), strict=False):
            for part in on_disk.chunks(file, CANDIDATE):
                self.records[start : start + len(part)] = part
                self.keys[start : start + len(part)] = near.key(share, part["document"])
                start += len(part)

    def place(self, number: Any) -> Any:
        """Of the share of a candidate, or of several, among `shares`."""
        return np.searchsorted(self.starts, number, "right") - 1

    def sketch(self, number: int) -> Sketch:
        record = self.records[number]
        start, runs = int(record["sketch"]), int(record["runs"])
        file = self._file(int(self.place(number)), ".sketches")
        numbers = np.fromfile(file, np.uint64, min(runs, SKETCH), offset=start * 8)
        return Sketch(numbers, runs <= SKETCH)

    def name(self, number: int) -> str:
        record = self.records[number]
        with self._file(int(self.place(number)), ".names").open("rb") as file:
            file.seek(int(record["name"]))
            return file.read(int(record["named"])).decode()

    def _file(self, place: int, ending: str) -> Path:
        return self._files[place].with_suffix(ending)


@dataclass
class Stays:
    """A candidate that stays, and who goes for its sake."""

    number: int
    sketch: Sketch
    size: int = 1
    shown: list[tuple[int, float]] = field(default_factory=list)
    """The first that go, with their similarity."""


class Cluster(PipelineStep):
    """One share over all: who goes."""

    type, name = "Corpus", "cluster"

    def __init__(self, candidates: Path, sketches: Path, folder: Path, asked: NearDuplicates, own: int) -> None:
        """``own`` is the number of shares after which those of earlier corpora come."""
        super().__init__()
        self.candidates, self.sketches, self.folder, self.near = candidates, sketches, folder, asked
        self.own = own

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        known = Candidates(self.sketches, self.folder)
        goes = on_disk.scratch(self.folder, np.bool_, known.count)
        largest: list[tuple[int, int, Stays]] = []
        clusters = 0
        for group in _groups(_leaders(known, self.candidates, self.folder), self.folder):
            for best in self._parted(known, group, goes):
                clusters += 1
                heapq.heappush(largest, (best.size, -best.number, best))
                if len(largest) > SHOWN:
                    heapq.heappop(largest)
        documents = self._save(known, goes)
        shown = [
            {
                "kept": known.name(best.number),
                "dropped": [[known.name(number), round(like, 3)] for number, like in best.shown],
                "size": best.size,
            }
            for _, _, best in sorted(largest, reverse=True)
        ]
        told = {"clusters": clusters, "documents": documents, "largest": shown}
        atomic.write_text(self.folder / CLUSTERS, json.dumps(told, ensure_ascii=False))

    def _save(self, known: Candidates, goes: Array) -> int:
        """Who goes of each share, as datatrove reads it; returns how many go of all."""
        documents = 0
        for share, start, end in zip(known.shares, known.starts.tolist(), known.starts[1:].tolist(), strict=False):
            if len(numbers := known.records["document"][start:end][goes[start:end]]):
                numbers.tofile(self.folder / f"{share:06d}.remove")
            documents += len(numbers)
        return documents

    def _parted(self, known: Candidates, group: Array, goes: Array) -> Iterator[Stays]:
        """Who stays of candidates that hang together, for whose sake others go: the best first, each compared with those that stay. Who goes
        is marked in ``goes``."""
        stays: deque[Stays] = deque()
        is_earlier = np.asarray(known.shares)[known.place(group)] >= self.own
        for at in self._order(known.records[group], is_earlier).tolist():
            number = int(group[at])
            sketch = known.sketch(number)
            likes = [] if is_earlier[at] else [(similarity(best.sketch, sketch), best) for best in stays]
            like, best = max(likes, key=lambda one: one[0], default=(0.0, None))
            if best is not None and like >= self.near.threshold:
                goes[number] = True
                best.size += 1
                if len(best.shown) < SHOWN:
                    best.shown.append((number, like))
                continue
            if len(stays) == COMPARED and (left := stays.popleft()).size > 1:
                yield left
            stays.append(Stays(number, sketch))
        yield from (best for best in stays if best.size > 1)

    def _order(self, records: Array, is_earlier: Array) -> Array:
        """The best first: those of earlier corpora, then by length or source; of equals that whose share comes first."""
        by_length, by_source = -records["length"].astype(np.int64), records["source"]
        first, second = (by_length, by_source) if self.near.keep == "Longest" else (by_source, by_length)
        order: Array = np.lexsort((second, first, ~is_earlier))
        return order


def _leaders(known: Candidates, pairs: Path, folder: Path) -> Array:
    """Of each candidate the first of those that hang together with it by pairs."""
    found = on_disk.scratch(folder, np.uint64, known.count)
    for span in on_disk.spans(known.count):
        found[span] = np.arange(span.start, span.stop, dtype=np.uint64)
    leader = found.data  # indexed one by one, it is several times as fast as the array

    def of(number: int) -> int:
        while (above := leader[number]) != number:
            leader[number] = leader[above]
            number = leader[number]
        return number

    for path in sorted(pairs.glob("*.dups")):
        for part in on_disk.chunks(path, PAIR):
            ones = np.searchsorted(known.keys, near.key(part["share"], part["document"]))
            others = np.searchsorted(known.keys, near.key(part["other_share"], part["other"]))
            for one, other in zip(ones.tolist(), others.tolist(), strict=True):
                first, second = of(one), of(other)
                leader[max(first, second)] = min(first, second)
    for number in range(known.count):  # whoever leads comes first, and is done
        leader[number] = leader[leader[number]]
    return found


def _groups(leaders: Array, folder: Path) -> Iterator[Array]:
    """The numbers of candidates that have one leader, in their order."""
    keys = on_disk.scratch(folder, np.uint64, len(leaders))
    for span in on_disk.spans(len(leaders)):
        keys[span] = near.key(leaders[span], np.arange(span.start, span.stop))
    keys.sort()
    start = 0
    while start < len(keys):
        leader = int(keys[start]) >> 32
        end = int(np.searchsorted(keys, near.key(leader + 1, 0)))
        yield np.array(keys[start:end] & np.uint64(0xFFFFFFFF)).astype(np.int64)
        start = end
