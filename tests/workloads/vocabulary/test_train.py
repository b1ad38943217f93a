"""A vocabulary is trained in a process of its own: the same text gives the same one, and every end of that process is told."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.workloads.literature import chinese
from workloads.data.corpus import CorpusFile, Tally
from workloads.errors import DataError, OutOfMemory, WorkloadError
from workloads.vocabulary import extend
from workloads.vocabulary.train import HELD_OUT, HELD_OUT_EVERY, Draw, Settings, Trained, train


def text(folder: Path, lines: list[str], name: str = "a.txt") -> CorpusFile:
    (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return CorpusFile(folder / name, "Text")


def trained(
    files: list[CorpusFile], vocab_size: int = 800, coverage: float = 0.9995, sentences: int = 1_000_000
) -> Trained:
    return train(files, Settings(vocab_size, coverage, sentences), Tally(), lambda what, done, total: None)


def pieces(result: Trained) -> list[str]:
    return [piece.piece for piece in extend.parse(result.model).pieces if piece.type == extend.NORMAL]


def test_words_become_pieces_and_full_width_marks_stay(tmp_path: Path) -> None:
    found = pieces(trained([text(tmp_path, chinese(3000))]))
    assert {"春天", "于是", "但是", "，", "！"} <= set(found)
    assert "," not in found  # NFKC would have made it one
    assert not [piece for piece in found if piece.startswith("▁") and len(piece) > 1]


def test_the_same_text_gives_the_same_vocabulary(tmp_path: Path) -> None:
    file = text(tmp_path, chinese(3000))
    assert trained([file]).model == trained([file]).model


def test_more_sentences_than_asked_for_are_drawn_evenly_and_alike(tmp_path: Path) -> None:
    file = text(tmp_path, chinese(3000))
    result = trained([file], sentences=1000)
    assert result.notes == ["trained on 1,000 of 2,970 sentences, drawn evenly (train.inputSentenceSize)"]
    assert result.model == trained([file], sentences=1000).model
    assert result.model != trained([file]).model


def test_some_sentences_are_set_aside(tmp_path: Path) -> None:
    lines = chinese(3000)
    result = trained([text(tmp_path, lines)])
    assert result.held_out == lines[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    assert result.sentences == len(lines) - len(result.held_out)


def test_a_short_text_is_trained_on_whole(tmp_path: Path) -> None:
    lines = chinese(50)
    result = trained([text(tmp_path, lines)], vocab_size=400)
    assert (result.sentences, result.held_out) == (50, lines)
    assert result.notes == ["too few sentences to set any aside: gains are measured on text that was trained on"]


def test_a_text_with_fewer_pieces_than_asked_for_gives_what_it_has(tmp_path: Path) -> None:
    assert len(pieces(trained([text(tmp_path, ["春天来了", "春天走了"] * 200)], vocab_size=32000))) < 20


def test_characters_that_do_not_fit_lower_the_coverage(tmp_path: Path) -> None:
    rare = [chr(0x5000 + number) for number in range(2000)]
    lines = [line + rare[number % 2000] for number, line in enumerate(chinese(3000))]
    result = trained([text(tmp_path, lines)], vocab_size=600)
    kept = (600 - 259) // 2
    characters = Counter("".join(lines))
    share = sum(count for _, count in characters.most_common(kept)) / characters.total()
    assert result.character_coverage == share
    assert result.notes == [
        f"train.vocabSize 600 has no room for the text's {len(characters)} different characters at train.characterCoverage 0.9995: the "
        f"coverage is lowered to {share:.4f}, which keeps the {kept} commonest and leaves room for longer pieces; raise train.vocabSize "
        "to keep more"
    ]
    found = pieces(result)
    assert sum(len(piece) == 1 for piece in found) == kept
    assert len(found) == 600 - 259
    assert "春天" in found


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    file = text(tmp_path, chinese(3000))
    train([file], Settings(800, 0.9995, 1_000_000), Tally(), lambda *words: told.append(words))
    size = file.path.stat().st_size
    assert ("read", size, size) in told
    merged = [(done, total) for what, done, total in told if what == "merge"]
    assert merged
    assert merged == sorted(merged)
    assert all(259 < done <= total == 800 for done, total in merged)


def test_no_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        trained([text(tmp_path, [])])
    assert str(error.value) == "dataset.train holds no text: its files are empty"


def test_an_error_of_the_text_comes_back_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(DataError) as error:
        trained([CorpusFile(tmp_path / "a.jsonl", "JSONL")])
    assert str(error.value).startswith(f"{tmp_path / 'a.jsonl'}, row 1: not JSON")


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        pytest.param(
            signal.SIGKILL,
            OutOfMemory,
            "the training of the vocabulary was killed, most likely for want of memory: lower train.inputSentenceSize, or ask for more "
            "memory in pod.resources.limits",
            id="the kernel kills what takes too much memory",
        ),
        pytest.param(
            signal.SIGABRT,
            WorkloadError,
            "the training of the vocabulary ended by itself (exit code -6): what it wrote is in the log",
            id="a failed check in sentencepiece",
        ),
    ],
)
def test_a_child_that_dies_is_told(tmp_path: Path, number: signal.Signals, kind: type[Exception], message: str) -> None:
    os.mkfifo(tmp_path / "a.txt")  # the child reads, and waits for text that never comes

    def kill() -> None:
        with (tmp_path / "a.txt").open("wb"):  # opens once the child does
            (child,) = multiprocessing.active_children()
            os.kill(child.pid or 0, number)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(kind) as error:
        trained([CorpusFile(tmp_path / "a.txt", "Text", encoding="utf-8")])
    killer.join()
    assert str(error.value) == message
    assert multiprocessing.active_children() == []


def test_a_draw_is_even_however_it_is_fed() -> None:
    counts: Counter[int] = Counter()
    for seed in range(4000):
        chance = random.Random(seed)
        draw = Draw(5, chance)
        items = list(range(37))
        while items:
            size = chance.randrange(9)
            draw.add(items[:size])  # type: ignore[arg-type]
            del items[:size]
        assert (len(set(draw.kept)), draw.seen) == (5, 37)
        counts.update(draw.kept)  # type: ignore[arg-type]
    # 540 of each are expected; five standard deviations are 108.
    assert all(abs(count - 4000 * 5 / 37) < 108 for count in counts.values())


def test_the_sentences_set_aside_are_bounded(tmp_path: Path) -> None:
    result = trained([text(tmp_path, chinese(1000) * 210)], sentences=2000)
    assert len(result.held_out) == HELD_OUT
