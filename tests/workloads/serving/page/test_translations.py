"""Both languages say everything."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from workloads.serving.page import translations
from workloads.serving.page.answering import BY_CODE, BY_STATUS
from workloads.serving.page.models import Condition
from workloads.serving.page.theme import STATIC


@pytest.mark.parametrize("part", ["LABELS", "PROBLEMS", "WORDS"])
def test_what_is_said_in_one_language_is_said_in_the_other(part: str) -> None:
    table = getattr(translations, part)
    holes = {
        language: {key: re.findall(r"{\w+}", text) for key, text in said.items()} for language, said in table.items()
    }
    gaps_of_gradio = {key: [] for key in holes["zh"] if key.startswith("chatbot.")}
    assert holes["zh"] == holes["en"] | gaps_of_gradio
    assert all(text.strip() for said in table.values() for text in said.values())


def test_every_problem_has_words() -> None:
    assert {*BY_CODE.values(), *BY_STATUS.values()} <= set(translations.PROBLEMS["en"])


def test_every_word_of_the_scripts_is_there_and_every_one_that_is_there_is_said() -> None:
    scripts = {path.name: path.read_text(encoding="utf-8") for path in STATIC.glob("*.js")}
    said = {word for text in scripts.values() for word in re.findall(r"\bwords\.(\w+)", text)} - {"problem_over"}
    assert len(said) > 20
    known = set(translations.WORDS["en"])
    assert said <= known
    indirect = {
        word
        for word in known - said
        if any(re.search(rf"\b{re.sub('^(press|vote)_', '', word)}\b", text) for text in scripts.values())
    }
    assert known == said | indirect | set(get_args(Condition))


def test_there_are_suggestions_in_every_language() -> None:
    assert len(translations.SUGGESTIONS["zh"]) == len(translations.SUGGESTIONS["en"]) == 4


@pytest.mark.parametrize(
    ("preferred", "spoken"),
    [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("zh-TW", "zh"), ("en-US", "en"), ("de", "en"), ("", "en"), (None, "en")],
)
def test_a_browser_is_spoken_to_in_the_language_nearest_to_its_own(preferred: str | None, spoken: str) -> None:
    assert translations.language(preferred) == spoken
