"""Figures of answers: how Chinese, how repetitive, how often ended."""

from __future__ import annotations

import math

import pytest

from workloads.evaluation import answer_metrics
from workloads.evaluation.generation import Answer


@pytest.mark.parametrize(
    ("text", "share"),
    [
        pytest.param("山高水长。", 1.0, id="punctuation does not count"),
        pytest.param("山 is 山", 0.5, id="letters against characters"),
        pytest.param("a mountain", 0.0, id="English"),
        pytest.param("3 + 4 = 7!", None, id="a text without letters has no share"),
        pytest.param("㐀𠮷々〇", 1.0, id="rare characters, and the signs that stand for some"),
        pytest.param("ありがとう山", 1 / 6, id="kana are letters, and not Chinese"),
    ],
)
def test_chinese_share(text: str, share: float | None) -> None:
    assert answer_metrics.chinese_share(text) == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        pytest.param("床前明月光，疑是地上霜。", 0.0, id="a verse"),
        pytest.param("山水山水山水山水", 3 / 5, id="a loop"),
        pytest.param("no no no no no", 1 / 2, id="words count as one"),
        pytest.param("i" * 24, 20 / 21, id="a word that never ends is a loop"),
        pytest.param("山水", 0.0, id="too short to repeat itself"),
        pytest.param("", 0.0, id="nothing"),
    ],
)
def test_repetition(text: str, share: float) -> None:
    assert answer_metrics.repetition(text) == pytest.approx(share)


def test_means_over_answers() -> None:
    answers = [
        Answer("山高水长。", 4, "Stopped"),
        Answer("no no no no no", 5, "Cut"),
        Answer("", 0, "Stopped"),
        Answer("12", 1, "TookTheTurn"),
    ]
    assert answer_metrics.metrics(answers) == {
        "stopRate": 0.5,
        "repetitionRate": pytest.approx(0.125),
        "chineseShare": 0.5,
        "answerTokens": 2.5,
        "answerCharacters": pytest.approx((5 + 14 + 2) / 4),
        "emptyRate": 0.25,
    }
    assert "chineseShare" not in answer_metrics.confidence([Answer("12", 1, "Cut")])
    assert math.isnan(answer_metrics.metrics([Answer("12", 1, "Cut")])["chineseShare"])


def test_every_mean_tells_how_far_it_may_be_off() -> None:
    answers = [Answer("山" * length, length, "Stopped") for length in (10, 12, 14, 16)]
    found = answer_metrics.confidence(answers)
    assert {(each.count, each.unit) for each in found.values()} == {(4, "answers")}
    assert (found["stopRate"].low, found["stopRate"].high) == (pytest.approx(4 / (4 + 1.95996**2), abs=1e-5), 1.0)
    # 13 ± 3.182 · 2.582 / 2, by a table of Student's distribution
    assert (found["answerTokens"].low, found["answerTokens"].high) == pytest.approx((8.89, 17.11), abs=0.05)
    assert found.keys() == answer_metrics.metrics(answers).keys()
    assert "answerTokens" not in answer_metrics.confidence(answers[:1]), "one answer has no spread"
