"""Of documents that are nearly alike the best stays: candidates that hang together are compared with each other by their sketches.

Who hangs together with whom is found in files, as nobody knows how many pairs a corpus has; in memory are those that one is compared with.
"""

from __future__ import annotations

import heapq
import itertools
import json
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

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
LONGEST = MOST - 1
"""Characters that a document may have."""
RANKED = np.dtype([("leader", "<u4"), ("is_later", "u1"), ("first", "<u4"), ("second", "<u4"), ("number", "<u4")])
"""A candidate in the order in which candidates are gone over: who leads those that it hangs together with, and what says which of them is the best."""


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
        with tempfile.TemporaryFile(dir=self.folder) as file:
            self._rank(known, file)
            ranked = (
                (leader, number, not is_later)
                for part in on_disk.parts(file, RANKED)
                for leader, is_later, _, _, number in part.tolist()
            )
            for _, group in itertools.groupby(ranked, key=lambda one: one[0]):
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
            with on_disk.Records(self.folder / f"{share:06d}.remove", "<u4") as out:
                for at in range(start, end, on_disk.AT_ONCE):
                    span = slice(at, min(at + on_disk.AT_ONCE, end))
                    numbers = known.records[span]["document"][goes[span]]
                    out.extend(numbers)
                    documents += len(numbers)
        return documents

    def _parted(self, known: Candidates, group: Iterable[tuple[int, int, bool]], goes: Array) -> Iterator[Stays]:
        """Who stays of candidates that hang together, for whose sake others go: the best first, each compared with those that stay. Who goes
        is marked in ``goes``."""
        stays: deque[Stays] = deque()
        for _, number, is_earlier in group:
            sketch = known.sketch(number)
            likes = [] if is_earlier else [(similarity(best.sketch, sketch), best) for best in stays]
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

    def _rank(self, known: Candidates, file: IO[bytes]) -> None:
        """Those that hang together, and of these the best first: those of earlier corpora, then by length or source; of equals that whose share
        comes first."""
        leaders, shares = _leaders(known, self.candidates, self.folder), np.asarray(known.shares)
        for span in on_disk.spans(known.count):
            records, ranked = known.records[span], np.zeros(span.stop - span.start, dtype=RANKED)
            ranked["leader"], ranked["number"] = leaders[span], np.arange(span.start, span.stop)
            ranked["is_later"] = shares[known.place(ranked["number"])] < self.own
            by = (LONGEST - records["length"], records["source"])
            ranked["first"], ranked["second"] = by if self.near.keep == "Longest" else by[::-1]
            ranked.tofile(file)
        on_disk.sort(file, RANKED, self.folder)


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
