"""What answers are like, in figures that need no judge: whether they end, repeat themselves, are Chinese, and how long they are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

from workloads.evaluation.generation import Answer

HAN = re.compile("[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
WORD = re.compile(r"\b\w{1,20}\b|\S", re.ASCII)
"""What repetition is counted in: words of Latin letters, and single characters of everything else, endless words among it."""
REPEATED = 4
"""Length of the stretches that are compared (seq-rep-4; Welleck et al., arXiv:1908.04319)."""


def chinese_share(text: str) -> float | None:
    """Share of the letters that are Chinese characters; None for a text without letters."""
    chinese = len(HAN.findall(text))
    others = sum(character.isalpha() for character in HAN.sub("", text))
    return chinese / (chinese + others) if chinese + others else None


def repetition(text: str) -> float:
    """Share of the stretches of four words that stood there before; 0 for a text of fewer."""
    words = WORD.findall(text)
    stretches = [tuple(words[at : at + REPEATED]) for at in range(len(words) - REPEATED + 1)]
    return 1 - len(set(stretches)) / len(stretches) if stretches else 0.0


def metrics(answers: Sequence[Answer]) -> dict[str, float]:
    """Means over the answers, by the names of reports and gates."""

    def mean(figure: Callable[[Answer], float | None]) -> float:
        return _mean(value for answer in answers if (value := figure(answer)) is not None)

    return {
        "stopRate": mean(lambda answer: float(answer.stopped)),
        "repetitionRate": mean(lambda answer: repetition(answer.text)),
        "chineseShare": mean(lambda answer: chinese_share(answer.text)),
        "answerTokens": mean(lambda answer: float(answer.tokens)),
        "answerCharacters": mean(lambda answer: float(len(answer.text))),
        "emptyRate": mean(lambda answer: float(not answer.text)),
    }


def _mean(values: Iterable[float]) -> float:
    """NaN of nothing."""
    found = list(values)
    return math.fsum(found) / len(found) if found else math.nan
