"""Near-duplicates: found where two documents are a little above the threshold, left alone where they are below it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.workloads.curation.corpora import make
from tests.workloads.literature import chinese
from workloads.curation import clusters, near
from workloads.curation.clusters import Sketch

ALIKE = "nearly like another document"
LINES = chinese(4000, seed=8)
LETTERS = [chr(0x4E00 + number) for number in range(3000)]


def page(number: int) -> str:
    return "\n".join(LINES[number * 20 : number * 20 + 20])


def worn(text: str, share: float, seed: int) -> str:
    """``text`` with a share of its characters changed to any other."""
    rng = random.Random(seed)
    return "".join(rng.choice(LETTERS) if rng.random() < share else character for character in text)


def jaccard(one: str, other: str, length: int = 5) -> float:
    """Counted out, with nothing of what is measured."""
    found = []
    for text in (one, other):
        letters = "".join(character for character in text.lower() if character.isalnum())
        found.append({letters[start : start + length] for start in range(len(letters) - length + 1)})
    return len(found[0] & found[1]) / len(found[0] | found[1])


def sketch(text: str, ngram: int = 5, size: int = near.SKETCH) -> Sketch:
    found = near.runs(text, ngram)
    return Sketch(found[:size], len(found) <= size)


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_bands_find_what_is_a_little_above_the_threshold(threshold: float) -> None:
    count, length = near.bands(threshold)
    assert count * length <= near.HASHES
    above = min(threshold + near.MARGIN, 0.99)
    assert 1 - (1 - above**length) ** count >= near.RECALL


@pytest.mark.parametrize("share", [0, 0.01, 0.05, 0.2])
def test_a_similarity_is_what_counting_gives(share: float) -> None:
    one, other = page(1), worn(page(1), share, seed=2)
    assert clusters.similarity(sketch(one), sketch(other)) == jaccard(one, other)


def test_of_long_documents_it_is_estimated() -> None:
    one = "\n".join(LINES)
    other = worn(one, 0.03, seed=2)
    assert clusters.similarity(sketch(one), sketch(other)) == pytest.approx(jaccard(one, other), abs=0.06)


def test_a_long_document_has_the_same_signature_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

    step = near.Signatures(tmp_path, MinhashConfig(num_buckets=3, hashes_per_bucket=4))
    shingles = step.get_shingles("\n".join(LINES[:200]))
    monkeypatch.setattr(near, "AT_ONCE", 100)
    assert step.get_signature(shingles) == MinhashDedupSignature.get_signature(step, shingles)


def test_the_best_of_a_cluster_stays_and_the_others_are_counted(tmp_path: Path) -> None:
    originals = [page(number) for number in range(40)]
    longer = [worn(page(number), 0.01, seed=number) + "\n又及。" for number in range(10)]
    far = [worn(page(number), 0.3, seed=number) for number in range(10, 20)]
    made = make(tmp_path, {"first": originals, "second": [*longer, *far]}, deduplicate={"near": {}})
    kept = made.texts()
    assert made.dropped(ALIKE) == 10
    assert set(longer) <= set(kept), "the longest stays"
    assert not set(originals[:10]) & set(kept)
    assert set(originals[10:]) | set(far) <= set(kept)
    assert made.report["clusters"]["clusters"] == made.report["clusters"]["documents"] == 10
    largest = made.report["clusters"]["largest"][0]
    assert largest["size"] == 2
    assert largest["dropped"][0][1] >= 0.8
    assert made.metrics["duplicates"] == 10

    first = make(
        tmp_path, {"first": originals, "second": longer}, "again", deduplicate={"near": {"keep": "FirstSource"}}
    )
    assert set(first.texts()) == set(originals)


def test_recall_above_the_threshold_and_no_loss_below_it(tmp_path: Path) -> None:
    pages = {number: page(number) for number in range(150)}
    copies = {number: worn(text, 0.001 * (number % 60), seed=number) for number, text in pages.items()}
    made = make(tmp_path, {"first": list(pages.values()), "second": list(copies.values())}, deduplicate={"near": {"threshold": 0.8, "keep": "FirstSource"}})  # fmt: skip
    kept = set(made.texts())
    likes = {number: jaccard(pages[number], copies[number]) for number in pages}
    above = [number for number, like in likes.items() if 0.85 <= like < 1]
    below = [number for number, like in likes.items() if like < 0.7]
    assert len(above) >= 30
    assert len(below) >= 20
    assert set(pages.values()) <= kept
    found = sum(copies[number] not in kept for number in above)
    assert found / len(above) >= 0.95
    assert all(copies[number] in kept for number in below)
