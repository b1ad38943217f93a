"""What training and merging a vocabulary cost, beside sentencepiece alone on the same text in the same run.

Times are printed and not judged: they depend on the machine. That memory is bounded does not, and is judged.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.process import ROOT
from workloads.vocabulary import extend

pytestmark = [pytest.mark.slow, pytest.mark.drill, pytest.mark.timeout(900)]

REPEATS = 2
MEGABYTES = 40
WORDS = 60_000
VOCABULARY = 32_000

OURS = """
from workloads.data.corpus import CorpusFile, Tally
from workloads.vocabulary.train import Settings, train
def work(path, size, sentences):
    from pathlib import Path
    return train([CorpusFile(Path(path), "Text")], Settings(size, 0.9995, sentences), Tally(), lambda *told: None).model
"""
SENTENCEPIECE = """
import io, sentencepiece
def work(path, size, sentences):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        input=path, model_writer=model, model_type="bpe", vocab_size=size, character_coverage=0.9995,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False, byte_fallback=True,
        split_digits=True, allow_whitespace_only_pieces=True, hard_vocab_limit=False, minloglevel=2,
    )
    return model.getvalue()
"""
MEASURE = """
if __name__ == "__main__":
    import json, resource, sys, time
    from workloads.system import memory
    start = time.monotonic()
    model = work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    wall = time.monotonic() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peak = max(memory.high_water() / 1024, used[1].ru_maxrss)
    open(sys.argv[4], "wb").write(model)
    print(json.dumps({
        "wall": wall,
        "cpu": sum(usage.ru_utime + usage.ru_stime for usage in used),
        "megabytes": peak / 1024,
    }))
"""


def write_text(path: Path, letters: list[str], megabytes: int, seed: int, between: str = "") -> None:
    """Sentences of words made up from ``letters``, common and rare as in a language (Zipf)."""
    chance = random.Random(seed)
    words = ["".join(chance.choices(letters, k=chance.choice((1, 2, 2, 2, 3, 4)))) for _ in range(WORDS)]
    weights = [1 / rank for rank in range(1, WORDS + 1)]
    cumulated = list(itertools.accumulate(weights))
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * 1_000_000:
            drawn = chance.choices(words, cum_weights=cumulated, k=200_000)
            file.writelines(between.join(drawn[at : at + 25]) + "。\n" for at in range(0, len(drawn), 25))


def measured(model: Path, work: str, text: Path, sentences: int = 1_000_000_000) -> dict[str, Any]:
    """Runs ``work`` in a process of its own, leaves what it trained in ``model``, and tells what it took."""
    script = model.with_suffix(".py")
    script.write_text(work + MEASURE)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "operator")))}
    done = subprocess.run(
        [sys.executable, script, text, str(VOCABULARY), str(sentences), model],
        env=environ, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


@dataclass(frozen=True)
class Trained:
    """The same text, trained on by both in turns."""

    text: Path
    ours: list[dict[str, Any]]
    alone: list[dict[str, Any]]
    model: Path

    def best(self, what: str) -> tuple[float, float]:
        return min(run[what] for run in self.ours), min(run[what] for run in self.alone)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("vocabulary")
    text = folder / "chinese.txt"
    write_text(text, [chr(0x4E00 + number) for number in range(6000)], MEGABYTES, seed=1)
    both = [
        (measured(folder / "ours", OURS, text), measured(folder / "alone", SENTENCEPIECE, text)) for _ in range(REPEATS)
    ]
    return Trained(text, [ours for ours, _ in both], [alone for _, alone in both], folder / "ours")


def test_training_is_as_fast_as_sentencepiece_alone(trained: Trained) -> None:
    size = trained.text.stat().st_size / 1e6
    for what in ("wall", "cpu"):
        ours, alone = trained.best(what)
        print(
            f"\n{what}: ours {size / ours:.2f} MB/s, sentencepiece alone {size / alone:.2f} MB/s, ratio {alone / ours:.3f}"
        )
    ours, alone = trained.best("megabytes")
    print(f"memory: ours {ours:.0f} MB, sentencepiece alone {alone:.0f} MB")


def test_memory_is_bounded_by_the_sentences_and_not_by_the_text(trained: Trained, tmp_path: Path) -> None:
    drawn = measured(tmp_path / "drawn", OURS, trained.text, sentences=50_000)["megabytes"]
    whole, _ = trained.best("megabytes")
    print(f"\nmemory: {drawn:.0f} MB for 50,000 sentences, {whole:.0f} MB for the whole text")
    assert drawn < whole / 2


def test_merging_two_large_vocabularies_takes_seconds(trained: Trained, tmp_path: Path) -> None:
    write_text(tmp_path / "latin.txt", list("abcdefghijklmnopqrstuvwxyz"), 10, seed=2, between=" ")
    measured(tmp_path / "base", SENTENCEPIECE, tmp_path / "latin.txt")
    base = extend.Base(extend.parse((tmp_path / "base").read_bytes()))
    new = extend.parse(trained.model.read_bytes())
    start = time.monotonic()
    merged = extend.merge(base, new, 65536)
    after_merge = time.monotonic()
    extend.save(merged, base, tmp_path)
    saved = time.monotonic()
    print(
        f"\n{len(base.proto.pieces):,} + {len(new.pieces):,} pieces: merged in {after_merge - start:.2f} s, saved in "
        f"{saved - after_merge:.2f} s (the import of transformers included)"
    )
    assert len(merged.proto.pieces) > 55_000
