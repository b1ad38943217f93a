"""Who goes of documents that hang together, as counting it out in memory says it; and numbers that lie in files."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from alpaca_operator.api.dataset import NearDuplicates
from workloads.curation import clusters, on_disk
from workloads.curation.near import CANDIDATE, PAIR, SKETCH, Ends, key

DOCUMENTS, SHARES, EARLIER = 60, 3, 2
"""Of each share; the last is of an earlier corpus."""


class Corpus:
    """Documents that are nothing but numbers of runs, in groups that resemble each other, and pairs of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        rng = random.Random(seed)
        self.folder = folder
        families = [[rng.getrandbits(62) for _ in range(rng.choice([30, SKETCH + 300]))] for _ in range(12)]
        self.documents: dict[tuple[int, int], tuple[set[int], int, int]] = {}
        self.pairs: list[tuple[int, int, int, int]] = []
        members: dict[int, list[tuple[int, int]]] = {}
        for share in range(SHARES):
            for index in range(DOCUMENTS):
                family = rng.randrange(len(families))
                runs = {number if rng.random() > 0.08 else rng.getrandbits(62) for number in families[family]}
                self.documents[share, index] = (runs, rng.randrange(100, 110), rng.randrange(3))
                members.setdefault(family, []).append((share, index))
        for places in members.values():
            rng.shuffle(places)
            self.pairs += [(*one, *other) for one, other in pairwise(places) if rng.random() < 0.95]
        rng.shuffle(self.pairs)

    def save(self) -> None:
        """As datatrove and the steps before write it, in two bands."""
        for band in (0, 1):
            rows = np.array(self.pairs[band::2], dtype=PAIR)
            rows.tofile(self.folder / f"{band:05d}_00.dups")
        ends = {place for pair in self.pairs for place in (pair[:2], pair[2:])}
        for share in range(SHARES):
            path = self.folder / f"{share:05d}.candidates"
            names, numbers, start, named = b"", [], 0, 0
            with on_disk.Records(path, CANDIDATE) as out:
                for index in sorted(index for other, index in ends if other == share):
                    runs, length, source = self.documents[share, index]
                    name = f"篇{share}-{index}".encode()
                    out.write((index, len(runs), length, source, start, named, len(name)))
                    sketch = sorted(runs)[:SKETCH]
                    numbers += sketch
                    names += name
                    start, named = start + len(sketch), named + len(name)
            np.array(numbers, dtype=np.uint64).tofile(path.with_suffix(".sketches"))
            path.with_suffix(".names").write_bytes(names)

    def goes(self, asked: NearDuplicates, compared: int) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """Who goes for whose sake, found by going from neighbour to neighbour."""
        beside: dict[tuple[int, int], set[tuple[int, int]]] = {}
        for share, index, other_share, other in self.pairs:
            beside.setdefault((share, index), set()).add((other_share, other))
            beside.setdefault((other_share, other), set()).add((share, index))
        found: dict[tuple[int, int], list[tuple[int, int]]] = {}
        seen: set[tuple[int, int]] = set()
        for first in beside:
            group, waiting = set(), [first] if first not in seen else []
            while waiting:
                place = waiting.pop()
                if place not in group:
                    group.add(place)
                    waiting += beside[place]
            seen |= group
            stays: list[tuple[int, int]] = []
            for place in sorted(group, key=lambda place: self._rank(place, asked)):
                likes = [(self.like(place, best), -at) for at, best in enumerate(stays[-compared:])]
                like, at = max(likes, default=(0.0, 0))
                if place[0] < EARLIER and like >= asked.threshold:
                    found.setdefault(stays[-compared:][-at], []).append(place)
                else:
                    stays.append(place)
        return found

    def _rank(self, place: tuple[int, int], asked: NearDuplicates) -> tuple[object, ...]:
        _, length, source = self.documents[place]
        by = (-length, source) if asked.keep == "Longest" else (source, -length)
        return (place[0] < EARLIER, *by, place)

    def like(self, one: tuple[int, int], other: tuple[int, int]) -> float:
        """Of the smallest numbers of both together, as far as both sketches reach."""
        runs = [sorted(self.documents[place][0])[:SKETCH] for place in (one, other)]
        reach = min(
            (sketch[-1] for sketch, place in zip(runs, (one, other), strict=True) if len(self.documents[place][0]) > SKETCH),
            default=1 << 63,
        )  # fmt: skip
        a, b = ({number for number in sketch if number <= reach} for sketch in runs)
        return len(a & b) / len(a | b)


@pytest.mark.parametrize("keep", ["Longest", "FirstSource"])
@pytest.mark.parametrize("compared", [64, 2])
def test_who_goes_is_what_counting_it_out_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, compared: int
) -> None:
    monkeypatch.setattr(clusters, "COMPARED", compared)
    monkeypatch.setattr(on_disk, "AT_ONCE", 7)
    monkeypatch.setattr(on_disk, "WRITTEN_AT_ONCE", 3)
    asked = NearDuplicates.model_validate({"threshold": 0.75, "keep": keep})
    corpus = Corpus(tmp_path, seed=compared)
    corpus.save()
    out = tmp_path / "out"
    out.mkdir()
    clusters.Cluster(tmp_path, tmp_path, out, asked, EARLIER).run()
    found = corpus.goes(asked, compared)
    gone = {(int(path.stem), index) for path in out.glob("*.remove") for index in np.fromfile(path, "<u4").tolist()}
    assert gone == {place for places in found.values() for place in places}
    assert len(gone) > 20
    told = json.loads((out / clusters.CLUSTERS).read_text(encoding="utf-8"))
    assert (told["clusters"], told["documents"]) == (len(found), len(gone))
    largest = sorted(found.items(), key=lambda entry: (-len(entry[1]), entry[0]))[: clusters.SHOWN]
    assert [(one["kept"], one["size"]) for one in told["largest"]] == [
        (f"篇{share}-{index}", 1 + len(places)) for (share, index), places in largest
    ]
    assert {name for name, _ in told["largest"][0]["dropped"]} <= {
        f"篇{share}-{index}" for share, index in largest[0][1]
    }
    assert sorted(path.name for path in out.iterdir() if path.suffix not in (".remove", ".json")) == []


def test_the_ends_of_pairs_are_sorted(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path, seed=9)
    corpus.save()
    Ends(tmp_path).run(rank=1)
    ends = np.fromfile(tmp_path / "00001_00.ends", dtype="<u8").tolist()
    pairs = corpus.pairs[1::2]
    assert ends == sorted(int(key(*place)) for pair in pairs for place in (pair[:2], pair[2:]))


def test_nothing_is_like_anything(tmp_path: Path) -> None:
    for name in ("00000_00.dups", "00000.candidates", "00000.sketches", "00000.names"):
        (tmp_path / name).touch()
    Ends(tmp_path).run()
    clusters.Cluster(tmp_path, tmp_path, tmp_path, NearDuplicates(), 1).run()
    told = json.loads((tmp_path / clusters.CLUSTERS).read_text(encoding="utf-8"))
    assert told == {"clusters": 0, "documents": 0, "largest": []}
