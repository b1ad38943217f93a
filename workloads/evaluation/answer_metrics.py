"""What answers are like, in figures that need no judge: whether they end, repeat themselves, are Chinese, and how long they are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from workloads.evaluation import intervals
from workloads.evaluation.generation import Answer
from workloads.evaluation.intervals import Interval
from workloads.evaluation.metrics import AS_SHARE

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


FIGURES: dict[str, Callable[[Answer], float | None]] = {
    "stopRate": lambda answer: float(answer.stopped),
    "repetitionRate": lambda answer: repetition(answer.text),
    "chineseShare": lambda answer: chinese_share(answer.text),
    "answerTokens": lambda answer: float(answer.tokens),
    "answerCharacters": lambda answer: float(len(answer.text)),
    "emptyRate": lambda answer: float(not answer.text),
}
"""What is said of each answer; None where there is nothing to say."""


def metrics(answers: Sequence[Answer]) -> dict[str, float]:
    """Means over the answers, by the names of reports and gates; NaN where there is nothing to say of any."""
    return {name: math.fsum(values) / len(values) if values else math.nan for name, values in _figures(answers).items()}


def confidence(answers: Sequence[Answer]) -> dict[str, Interval]:
    """The intervals of these means."""
    found = {}
    for name, values in _figures(answers).items():
        if not values:
            continue
        is_share = name in AS_SHARE
        edges = (
            intervals.wilson(math.fsum(values) / len(values), len(values)) if is_share else intervals.of_mean(values)
        )
        if edges is not None:
            found[name] = Interval(max(0.0, edges[0]), edges[1], len(values), "answers")
    return found


def _figures(answers: Sequence[Answer]) -> dict[str, list[float]]:
    return {
        name: [value for answer in answers if (value := figure(answer)) is not None] for name, figure in FIGURES.items()
    }
