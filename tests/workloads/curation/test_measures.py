"""What filters measure."""

from __future__ import annotations

from typing import Any

import pytest

from alpaca_operator.api.dataset import Filters
from workloads.curation import languages, measures
from workloads.errors import SpecError


@pytest.mark.parametrize(
    ("measure", "text", "value"),
    [
        pytest.param(measures.chinese_share, "山水 ab\n", 0.5, id="spaces do not count"),
        pytest.param(measures.chinese_share, "𠀀㐀山", 1.0, id="rare characters are Chinese"),
        pytest.param(measures.chinese_share, " ", 0.0, id="nothing but a space"),
        pytest.param(measures.symbol_share, "★★山，", 0.5, id="punctuation is no symbol"),
        pytest.param(measures.duplicate_line_share, "一二\n三四\n 一二\n", 1 / 3, id="a line that comes again"),
        pytest.param(measures.duplicate_ngram_share, "一二三四五六七八九十" * 2, 1 / 11, id="a run that comes again"),
        pytest.param(measures.duplicate_ngram_share, "短", 0.0, id="shorter than a run"),
    ],
)
def test_a_measure(measure: Any, text: str, value: float) -> None:
    assert measure(text) == pytest.approx(value)


def test_a_language_that_cannot_be_told_is_refused() -> None:
    with pytest.raises(SpecError, match=r"filters\.language: xx is no language that can be told: known are af, ar, "):
        languages.must_be_known(["zh", "xx"])


@pytest.mark.parametrize(
    ("filters", "text", "reason"),
    [
        pytest.param({"minCharacters": 3}, "山水", "minCharacters", id="too short"),
        pytest.param({"minCharacters": 2}, "山水", None, id="a bound is included"),
        pytest.param({"maxCharacters": 1}, "山水", "maxCharacters", id="too long"),
        pytest.param({"minChineseShare": 0.6}, "山a", "minChineseShare", id="too little Chinese"),
        pytest.param({"maxSymbolShare": 0.1}, "山★", "maxSymbolShare", id="too many symbols"),
        pytest.param({"maxDuplicateLineShare": 0.3}, "山\n山", "maxDuplicateLineShare", id="lines that repeat"),
        pytest.param({"maxDuplicateNgramShare": 0.3}, "山" * 30, "maxDuplicateNgramShare", id="runs that repeat"),
        pytest.param({"blocklist": ["水", "火"]}, "山火", "blocklist", id="a word of the list"),
        pytest.param({"language": ["zh"]}, "白日依山尽，黄河入海流。", None, id="classical Chinese"),
        pytest.param({"language": ["zh"]}, "欲窮千里目，更上一層樓。", None, id="traditional characters"),
        pytest.param({"language": ["zh"]}, "これは日本語の文章です。", "language", id="Japanese is no Chinese"),
        pytest.param({"language": ["zh"]}, "The sun sets behind the hills.", "language", id="English is no Chinese"),
        pytest.param({"language": ["zh", "en"]}, "The sun sets behind the hills.", None, id="one of two languages"),
        pytest.param({"language": ["zh"]}, "12345 ……", "language", id="no words of any language"),
        pytest.param(
            {"language": ["zh"]},
            "Home. " * 60 + "山水之间有人家。" * 300 + "The end. " * 40,
            None,
            id="told by the middle",
        ),
        pytest.param({}, "", None, id="no filter"),
    ],
)
def test_a_filter(filters: dict[str, Any], text: str, reason: str | None) -> None:
    assert measures.failed(Filters.model_validate(filters), text) == reason
