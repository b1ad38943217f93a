"""Near-duplicates: candidates by datatrove's MinHash over runs of characters, then the similarity of candidates from sketches of them.

MinHash alone either misses pairs above the threshold or leaves out documents far below it. So its bands are chosen to find all that is a little above
the threshold, and what it finds is compared: a document is left out only where one that stays is as similar as was asked for.
"""

from __future__ import annotations

import math
import re
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
AT_ONCE = 256
"""Runs of characters that are hashed at once: a document may have millions, each with a row of numbers."""
PRIME = np.uint64((1 << 61) - 1)
"""Below which datatrove's numbers of a signature are."""
STRETCH = 1 << 14
"""Documents among which candidates are looked for at once."""

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
    """datatrove's first stage, with runs of characters that numpy hashes together, and without the signatures of a share in memory."""

    def __init__(self, folder: Path, minhash: MinhashConfig) -> None:
        super().__init__(str(folder), minhash, language=Characters())
        self.folder = folder

    def run(self, data: Iterable[Any], rank: int = 0, world_size: int = 1) -> None:
        """Those of each band in a file of its own, sorted."""
        hashes = [(f"hash{place}", "<u8") for place in range(self.config.hashes_per_bucket)]
        signature = np.dtype([*hashes, ("document", "<u4")])
        paths = [
            self.folder / f"bucket_{band:03d}" / f"{rank:05d}.minhash.sig" for band in range(self.config.num_buckets)
        ]
        outs = [on_disk.Records(path, signature) for path in paths]
        for index, document in enumerate(data):
            if len(shingles := self.get_shingles(document.text)):
                for out, band in zip(outs, self.get_signature(shingles), strict=True):
                    out.write((*band, index))
        for path, out in zip(paths, outs, strict=True):
            out.close()
            with path.open("r+b") as file:
                on_disk.sort(file, signature, path.parent)

    def get_shingles(self, text: str) -> Numbers:
        return runs(text, self.config.n_grams).reshape((-1, 1))

    def get_signature(self, shingles: Numbers) -> list[list[int]]:
        """The smallest numbers, as datatrove finds them: modulo 2⁶¹ - 1, by shifts instead of a division, and so few at a time that they stay in
        the processor's cache."""
        factors, summands = self.parameters
        least = np.full(self.num_hashes, PRIME, dtype=np.uint64)
        for start in range(0, len(shingles), AT_ONCE):
            found = shingles[start : start + AT_ONCE] * factors + summands
            rest = found >> np.uint64(61)
            found &= PRIME
            found += rest
            np.subtract(found, PRIME, out=rest)  # what was smaller becomes very large
            np.minimum(found, rest, out=found)
            np.minimum(least, found.min(axis=0), out=least)
        return [band.tolist() for band in np.split(least, self.config.num_buckets)]


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
        with path.open("r+b") as file:
            on_disk.sort(file, "<u8", self.candidates)


class Sketches(PipelineStep):
    """What the candidates of a share are compared by."""

    type, name = "Corpus", "sketch"

    def __init__(self, candidates: Path, folder: Path, ngram: int) -> None:
        super().__init__()
        self.candidates, self.folder, self.ngram = candidates, folder, ngram

    def run(self, data: Iterable[Any], rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        wanted = self._wanted(rank)
        following = next(wanted, None)
        numbers = names = 0
        path = self.folder / f"{rank:05d}.candidates"
        with (
            on_disk.Records(path, CANDIDATE) as records,
            path.with_suffix(".sketches").open("wb") as sketches,
            path.with_suffix(".names").open("wb") as named,
        ):
            for index, document in enumerate(data):
                if index == following:
                    following = next(wanted, None)
                    found, name = runs(document.text, self.ngram), document.id.encode()
                    length, source = document.metadata["length"], document.metadata["source"]
                    records.write((index, len(found), length, source, numbers, names, len(name)))
                    sketches.write(found[:SKETCH].tobytes())
                    named.write(name)
                    numbers += min(len(found), SKETCH)
                    names += len(name)
                yield document

    def _wanted(self, rank: int) -> Iterator[int]:
        """The numbers of the candidates of a share, in their order: those of all bands, which are sorted, a stretch of numbers at a time."""
        rest = []
        for path in sorted(self.candidates.glob("*.ends")):
            ends = on_disk.mapped(path, "<u8")
            start, end = np.searchsorted(ends, key([rank, rank + 1], [0, 0]))
            rest.append(ends[start:end])
        while rest := [ends for ends in rest if len(ends)]:
            limit = min(ends[0] for ends in rest) + np.uint64(STRETCH)
            cuts = [int(np.searchsorted(ends, limit)) for ends in rest]
            found = np.unique(np.concatenate([ends[:cut] for ends, cut in zip(rest, cuts, strict=True)]))
            yield from (found & np.uint64(0xFFFFFFFF)).tolist()
            rest = [ends[cut:] for ends, cut in zip(rest, cuts, strict=True)]
