"""Answers held against references."""

from __future__ import annotations

from collections import Counter

import pytest

from workloads.evaluation import references


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        pytest.param("床前明月光。", "床前明月光", 1.0, 1.0, id="but for punctuation"),
        pytest.param("The Capital is PARIS!", "the capital is Paris", 1.0, 1.0, id="but for capitals"),
        pytest.param("Ａ１，Ｂ", "a1 b", 1.0, 1.0, id="but for the width of letters"),
        pytest.param("1,000 元", "1000元", 1.0, 1.0, id="but for commas in numbers"),
        pytest.param("兔 12 只", "兔12只，鸡23只", 0.0, 6 / 9, id="half of it"),
        pytest.param("山山山", "山", 0.0, 0.5, id="what is said again counts once"),
        pytest.param("水", "山", 0.0, 0.0, id="nothing of it"),
        pytest.param("", "山", 0.0, 0.0, id="no answer"),
        pytest.param("？！", "。", 1.0, 1.0, id="no words on either side"),
        pytest.param("catalog", "cat a log", 0.0, 0.0, id="words of Latin letters are whole"),
    ],
)
def test_exact_match_and_f1(answer: str, reference: str, exact: float, f1: float) -> None:
    assert references.exact_match(answer, reference) == exact
    assert references.token_f1(answer, reference) == pytest.approx(f1)


def by_hand(answer: str, reference: str) -> float:
    """chrF2 as Popović (WMT 2015) writes it: mean precision and recall of stretches of one to six characters, recall counted twice."""
    ours, theirs = answer.replace(" ", ""), reference.replace(" ", "")
    shares = []
    for size in range(1, 7):
        one, other = (Counter(text[at : at + size] for at in range(len(text) - size + 1)) for text in (ours, theirs))
        if one and other:
            common = (one & other).total()
            shares.append((common / one.total(), common / other.total()))
    precision, recall = (sum(part) / len(shares) for part in zip(*shares, strict=True))
    return 5 * precision * recall / (4 * precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("千山鸟飞绝，万径人踪没。", "千山鸟飞绝，万径人踪灭。"), ("the cat sat", "a cat sat down"), ("山水", "水山")],
)
def test_chrf_is_the_one_of_its_paper(answer: str, reference: str) -> None:
    assert references.chrf(answer, reference) == pytest.approx(by_hand(answer, reference), abs=1e-6)
    assert references.chrf(reference, reference) == pytest.approx(1.0)
