"""Near-duplicates: candidates by datatrove's MinHash over runs of characters, then the similarity of candidates from sketches of them.

MinHash alone either misses pairs above the threshold or leaves out documents far below it. So its bands are chosen to find all that is a little above
the threshold, and what it finds is compared: a document is left out only where one that stays is as similar as was asked for.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.word_tokenizers import WordTokenizer

from alpaca_operator.api.dataset import NearDuplicates
from workloads.curation import on_disk

HASHES = 128
"""Of a document at most, in all bands together."""
MARGIN, RECALL = 0.05, 0.99
"""Of the pairs that are so much above the threshold, the bands find this share."""
SKETCH = 512
"""Numbers by which two documents are compared: of longer ones the similarity is known to 0.02, of shorter ones exactly."""
AT_ONCE = 4096
"""Runs of characters that are hashed at once: a document may have millions, each with a row of numbers."""

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


def signature_bytes(minhash: MinhashConfig) -> int:
    """Of a document in a band."""
    return int(minhash.hashes_per_bucket * minhash.hash_config.np_dtype().itemsize) + 4


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
    found: Numbers = np.unique(numbered(plain(text), length))
    return found


def numbered(letters: str, length: int) -> Numbers:
    """A number for the run that begins at each letter."""
    points = np.frombuffer(letters.encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    if len(points) < length:
        return np.empty(0, dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed: Numbers = np.zeros(len(points) - length + 1, dtype=np.uint64)
        for offset in range(length):
            mixed = (mixed ^ points[offset : len(points) - length + 1 + offset]) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(32))


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


PAIR = np.dtype([("share", "<u4"), ("document", "<u4"), ("other_share", "<u4"), ("other", "<u4")])
"""Two candidates, as datatrove's second stage writes them."""
CANDIDATE = np.dtype(
    [("document", "<u4"), ("runs", "<u4"), ("length", "<u4"), ("source", "<u4"), ("sketch", "<u8"), ("name", "<u8"), ("named", "<u4")]
)  # fmt: skip
"""A document that may be like another: its number in the share, its runs, the characters of the whole, its source; where its sketch begins, and
where its name, with the bytes of that."""


def key(share: Any, document: Any) -> Numbers:
    """A number for each document, by which they stand in the order of shares."""
    keys: Numbers = (np.asarray(share).astype(np.uint64) << np.uint64(32)) | np.asarray(document).astype(np.uint64)
    return keys


class Ends(PipelineStep):
    """The documents of the pairs that a band gave, sorted: a share finds its own without a look at those of others."""

    type, name = "Corpus", "ends"

    def __init__(self, candidates: Path) -> None:
        super().__init__()
        self.candidates = candidates

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        path = self.candidates / f"{rank:05d}_00.ends"
        with on_disk.Records(path, "<u8") as out:
            for part in on_disk.chunks(path.with_suffix(".dups"), PAIR):
                out.extend(key(part["share"], part["document"]))
                out.extend(key(part["other_share"], part["other"]))
        on_disk.mapped(path, "<u8", "r+").sort()


class Sketches(PipelineStep):
    """What the candidates of a share are compared by."""

    type, name = "Corpus", "sketch"

    def __init__(self, candidates: Path, folder: Path, ngram: int) -> None:
        super().__init__()
        self.candidates, self.folder, self.ngram = candidates, folder, ngram

    def run(self, data: Iterable[Any], rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        wanted, place = self._wanted(rank), 0
        numbers = names = 0
        path = self.folder / f"{rank:05d}.candidates"
        with (
            on_disk.Records(path, CANDIDATE) as records,
            path.with_suffix(".sketches").open("wb") as sketches,
            path.with_suffix(".names").open("wb") as named,
        ):
            for index, document in enumerate(data):
                if place < len(wanted) and wanted[place] == index:
                    place += 1
                    found, name = runs(document.text, self.ngram), document.id.encode()
                    length, source = document.metadata["length"], document.metadata["source"]
                    records.write((index, len(found), length, source, numbers, names, len(name)))
                    sketches.write(found[:SKETCH].tobytes())
                    named.write(name)
                    numbers += min(len(found), SKETCH)
                    names += len(name)
                yield document

    def _wanted(self, rank: int) -> array[int]:
        """The numbers of the candidates of a share, in their order."""
        found = [np.empty(0, dtype=np.uint32)]
        for path in sorted(self.candidates.glob("*.ends")):
            ends = on_disk.mapped(path, "<u8")
            start, end = np.searchsorted(ends, key([rank, rank + 1], [0, 0]))
            found.append(np.unique(ends[start:end] & np.uint64(0xFFFFFFFF)).astype(np.uint32))
        return array("I", np.unique(np.concatenate(found)).tobytes())
