"""Near-duplicates: candidates by datatrove's MinHash over runs of characters, then the similarity of candidates from sketches of them.

MinHash alone either misses pairs above the threshold or leaves out documents far below it. So its bands are chosen to find all that is a little above
the threshold, and what it finds is compared: a document is left out only where one that stays is as similar as was asked for.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.word_tokenizers import WordTokenizer

from alpaca_operator.api.dataset import NearDuplicates
from workloads.system import atomic

HASHES = 128
"""Of a document at most, in all bands together."""
MARGIN, RECALL = 0.05, 0.99
"""Of the pairs that are so much above the threshold, the bands find this share."""
SKETCH = 512
"""Numbers by which two documents are compared: of longer ones the similarity is known to 0.02, of shorter ones exactly."""
AT_ONCE = 4096
"""Runs of characters that are hashed at once: a document may have millions, each with a row of numbers."""
COMPARED = 64
"""Documents of a cluster that stay and that the next is compared with, the last of them."""
SHOWN = 20
"""Clusters that the report shows, the largest."""

LETTERS = re.compile(r"[\W_]+")
Numbers = np.ndarray[Any, np.dtype[np.uint64]]


def bands(threshold: float) -> tuple[int, int]:
    """How many bands, of how many hashes: the longest ones that find RECALL of the pairs MARGIN above the threshold."""
    above = min(threshold + MARGIN, 0.99)
    fitting = (1, 1)
    for length in range(1, HASHES + 1):
        count = max(1, math.ceil(math.log(1 - RECALL) / math.log(1 - above**length)))
        if count * length > HASHES:
            break
        fitting = (count, length)
    return fitting


def config(near: NearDuplicates) -> MinhashConfig:
    count, length = bands(near.threshold)
    return MinhashConfig(n_grams=near.ngram, num_buckets=count, hashes_per_bucket=length)


class Characters(WordTokenizer):
    """A character is a word: Chinese has no spaces, and a segmenter would bring its own libraries and mistakes."""

    def word_tokenize(self, text: str) -> list[str]:
        return list(plain(text))

    def sent_tokenize(self, text: str) -> list[str]:
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def plain(text: str) -> str:
    """What is compared: letters and digits, in small letters."""
    return LETTERS.sub("", text.casefold())


def runs(text: str, length: int) -> Numbers:
    """A number for each different run of ``length`` characters, sorted."""
    points = np.frombuffer(plain(text).encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    if len(points) < length:
        return np.empty(0, dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed: Numbers = np.zeros(len(points) - length + 1, dtype=np.uint64)
        for offset in range(length):
            mixed = (mixed ^ points[offset : len(points) - length + 1 + offset]) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
    found: Numbers = np.unique(mixed ^ (mixed >> np.uint64(32)))
    return found


class Signatures(MinhashDedupSignature):
    """datatrove's first stage, with runs of characters that numpy hashes together."""

    def __init__(self, folder: Path, minhash: MinhashConfig) -> None:
        super().__init__(str(folder), minhash, language=Characters())

    def get_shingles(self, text: str) -> Numbers:
        return runs(text, self.config.n_grams).reshape((-1, 1))

    def get_signature(self, shingles: Numbers) -> list[list[int]]:
        """The smallest numbers, a part of a long document at a time."""
        parts = [super().get_signature(shingles[:AT_ONCE])]
        for start in range(AT_ONCE, len(shingles), AT_ONCE):
            parts.append(super().get_signature(shingles[start : start + AT_ONCE]))
        return [np.min(np.array(band, dtype=np.uint64), axis=0).tolist() for band in zip(*parts, strict=True)]


def pairs(folder: Path) -> np.ndarray[Any, Any]:
    """The pairs of candidates that datatrove's second stage found: a row ``[share, document, share, document]`` each."""
    found = [np.fromfile(path, dtype="<u4").reshape(-1, 4) for path in sorted(folder.glob("*.dups"))]
    return np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 4), dtype="<u4")


class Sketches(PipelineStep):
    """What the candidates of a share are compared by."""

    type, name = "Corpus", "sketch"

    def __init__(self, candidates: Path, folder: Path, ngram: int) -> None:
        super().__init__()
        self.candidates, self.folder, self.ngram = candidates, folder, ngram

    def run(self, data: Iterable[Any], rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        found = pairs(self.candidates).reshape(-1, 2)
        wanted = set(found[found[:, 0] == rank, 1].tolist())
        numbers: list[Numbers] = []
        rows: list[list[Any]] = []
        for index, document in enumerate(data):
            if index in wanted:
                sketch = runs(document.text, self.ngram)
                rows.append([index, len(sketch), document.metadata["length"], document.metadata["source"], document.id])
                numbers.append(sketch[:SKETCH])
            yield document
        np.save(self.folder / f"{rank:05d}.npy", np.concatenate([np.empty(0, dtype=np.uint64), *numbers]))
        atomic.write_text(self.folder / f"{rank:05d}.json", json.dumps(rows, ensure_ascii=False))


@dataclass(frozen=True)
class Candidate:
    """A document that may be like another."""

    share: int
    index: int
    length: int
    source: int
    id: str
    sketch: Numbers
    is_whole: bool
    """Whether the sketch is all of its runs."""
    is_earlier: bool = False
    """Whether it is of an earlier corpus, which stays as it is."""


def similarity(one: Candidate, other: Candidate) -> float:
    """The share of the runs of both that both have, from what the sketches know of it."""
    a, b = one.sketch, other.sketch
    ends = [sketch[-1] for sketch, whole in ((a, one.is_whole), (b, other.is_whole)) if not whole]
    if ends:  # above the end of a sketch nobody knows what its document has
        limit = min(ends)
        a, b = a[: np.searchsorted(a, limit, "right")], b[: np.searchsorted(b, limit, "right")]
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / max(1, len(a) + len(b) - both)


class Cluster(PipelineStep):
    """One share over all: of documents that are alike the best stays."""

    type, name = "Corpus", "cluster"

    def __init__(self, candidates: Path, sketches: Path, folder: Path, near: NearDuplicates, own: int) -> None:
        """``own`` is the number of shares after which those of earlier corpora come."""
        super().__init__()
        self.candidates, self.sketches, self.folder, self.near = candidates, sketches, folder, near
        self.own = own

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        known = {(each.share, each.index): each for each in self._candidates()}
        removed: dict[int, list[int]] = {}
        found: list[tuple[Candidate, list[tuple[Candidate, float]]]] = []
        for group in _groups(pairs(self.candidates)):
            for best, others in self._parted([known[key] for key in group]):
                found.append((best, others))
                for other, _ in others:
                    removed.setdefault(other.share, []).append(other.index)
        for share, indices in removed.items():
            np.array(sorted(indices), dtype="<u4").tofile(self.folder / f"{share:06d}.remove")
        found.sort(key=lambda cluster: (-len(cluster[1]), cluster[0].share, cluster[0].index))
        shown = [
            {
                "kept": best.id,
                "dropped": [[other.id, round(like, 3)] for other, like in others[:SHOWN]],
                "size": 1 + len(others),
            }
            for best, others in found[:SHOWN]
        ]
        told = {"clusters": len(found), "documents": sum(map(len, removed.values())), "largest": shown}
        atomic.write_text(self.folder / CLUSTERS, json.dumps(told, ensure_ascii=False))

    def _candidates(self) -> Iterator[Candidate]:
        for path in sorted(self.sketches.glob("*.json")):
            rows = json.loads(path.read_text(encoding="utf-8"))
            numbers = np.load(path.with_suffix(".npy"), mmap_mode="r" if rows else None)
            start = 0
            for index, size, length, source, name in rows:
                end = start + min(size, SKETCH)
                sketch = np.asarray(numbers[start:end])
                share = int(path.stem)
                yield Candidate(share, index, length, source, name, sketch, size <= SKETCH, share >= self.own)
                start = end

    def _parted(self, group: list[Candidate]) -> Iterator[tuple[Candidate, list[tuple[Candidate, float]]]]:
        """Who stays of candidates that hang together, and who goes for the sake of each: the best first, each compared with those that stay."""
        stays: list[tuple[Candidate, list[tuple[Candidate, float]]]] = []
        for candidate in sorted(group, key=self._rank):
            if candidate.is_earlier:
                stays.append((candidate, []))
                continue
            likes = [(similarity(best, candidate), others) for best, others in stays[-COMPARED:]]
            like, others = max(likes, key=lambda one: one[0], default=(0.0, []))
            if like >= self.near.threshold:
                others.append((candidate, like))
            else:
                stays.append((candidate, []))
        return ((best, others) for best, others in stays if others)

    def _rank(self, candidate: Candidate) -> tuple[int, ...]:
        by_length = (-candidate.length, candidate.source)
        first = by_length if self.near.keep == "Longest" else by_length[::-1]
        return (not candidate.is_earlier, *first, candidate.share, candidate.index)


CLUSTERS = "clusters.json"


def _groups(found: np.ndarray[Any, Any]) -> list[list[tuple[int, int]]]:
    """Documents that hang together by pairs."""
    leader: dict[tuple[int, int], tuple[int, int]] = {}

    def of(key: tuple[int, int]) -> tuple[int, int]:
        leader.setdefault(key, key)
        while leader[key] != key:
            leader[key] = leader[leader[key]]
            key = leader[key]
        return key

    for share, index, other_share, other_index in found.tolist():
        one, other = of((share, index)), of((other_share, other_index))
        leader[max(one, other)] = min(one, other)
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for key in sorted(leader):
        groups.setdefault(of(key), []).append(key)
    return list(groups.values())
