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
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.process import ROOT
from workloads import vocabulary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REPEATS = 3
MEGABYTES = 40
WORDS = 60_000
VOCABULARY = 32_000

OURS = """
from workloads.corpus import CorpusFile
from workloads.vocabulary_training import Settings, train
def work(path, size, sentences):
    from pathlib import Path
    return train([CorpusFile(Path(path), "Text")], Settings(size, 0.9995, sentences), lambda *told: None).model
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
    start = time.monotonic()
    model = work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    wall = time.monotonic() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    open(sys.argv[4], "wb").write(model)
    print(json.dumps({
        "wall": wall,
        "cpu": sum(usage.ru_utime + usage.ru_stime for usage in used),
        "megabytes": max(usage.ru_maxrss for usage in used) / 1024,
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


def measured(folder: Path, work: str, text: Path, sentences: int = 1_000_000_000) -> dict[str, Any]:
    script = folder / "work.py"
    script.write_text(work + MEASURE)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "operator")))}
    done = subprocess.run(
        [sys.executable, script, text, str(VOCABULARY), str(sentences), folder / "model"],
        env=environ, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "chinese.txt"
    write_text(path, [chr(0x4E00 + number) for number in range(6000)], MEGABYTES, seed=1)
    return path


def test_training_is_as_fast_as_sentencepiece_alone(text: Path, tmp_path: Path) -> None:
    ours, alone = [], []
    for _ in range(REPEATS):
        ours.append(measured(tmp_path, OURS, text))
        alone.append(measured(tmp_path, SENTENCEPIECE, text))
    size = text.stat().st_size / 1e6

    def best(runs: list[dict[str, Any]], what: str) -> float:
        return min(float(run[what]) for run in runs)

    for what in ("wall", "cpu"):
        print(
            f"\n{what}: ours {size / best(ours, what):.2f} MB/s, sentencepiece alone {size / best(alone, what):.2f} MB/s, "
            f"ratio {best(alone, what) / best(ours, what):.3f}"
        )
    print(f"memory: ours {best(ours, 'megabytes'):.0f} MB, sentencepiece alone {best(alone, 'megabytes'):.0f} MB")


def test_memory_is_bounded_by_the_sentences_and_not_by_the_text(text: Path, tmp_path: Path) -> None:
    drawn = measured(tmp_path, OURS, text, sentences=50_000)
    whole = measured(tmp_path, OURS, text)
    print(f"\nmemory: {drawn['megabytes']:.0f} MB for 50,000 sentences, {whole['megabytes']:.0f} MB for the whole text")
    assert drawn["megabytes"] < whole["megabytes"] / 2


def test_merging_two_large_vocabularies_takes_seconds(text: Path, tmp_path: Path) -> None:
    write_text(tmp_path / "latin.txt", list("abcdefghijklmnopqrstuvwxyz"), 10, seed=2, between=" ")
    measured(tmp_path, SENTENCEPIECE, tmp_path / "latin.txt")
    base = vocabulary.Base(vocabulary.parse((tmp_path / "model").read_bytes()))
    measured(tmp_path, SENTENCEPIECE, text)
    trained = vocabulary.parse((tmp_path / "model").read_bytes())
    start = time.monotonic()
    merged = vocabulary.merge(base, trained, 65536)
    after_merge = time.monotonic()
    vocabulary.save(merged, base, tmp_path)
    saved = time.monotonic()
    print(
        f"\n{len(base.proto.pieces):,} + {len(trained.pieces):,} pieces: merged in {after_merge - start:.2f} s, saved in {saved - after_merge:.2f} s "
        "(the import of transformers included)"
    )
    assert len(merged.proto.pieces) > 55_000
