"""What answers are like, in figures that need no judge: whether they end, repeat themselves, are Chinese, and how long they are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from workloads.evaluation import intervals
from workloads.evaluation.generation import Answer
from workloads.evaluation.intervals import Interval
from workloads.evaluation.metrics import is_share
from workloads.evaluation.references import WORD, chrf, exact_match, token_f1

HAN = re.compile("[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
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
AGAINST: dict[str, Callable[[str, str], float]] = {"exactMatch": exact_match, "tokenF1": token_f1, "chrF": chrf}
"""What is said of each answer and its reference."""


def metrics(answers: Sequence[Answer], wordings: Sequence[str | None] = ()) -> dict[str, float]:
    """Means over the answers, by the names of reports and gates; NaN where there is nothing to say of any. ``wordings``: what each is held
    against; where none is held against anything, there are no such metrics."""
    return {
        name: math.fsum(values) / len(values) if values else math.nan
        for name, values in _figures(answers, wordings).items()
    }


def confidence(answers: Sequence[Answer], wordings: Sequence[str | None] = ()) -> dict[str, Interval]:
    """The intervals of these means."""
    found = {}
    for name, values in _figures(answers, wordings).items():
        if not values:
            continue
        edges = (
            intervals.wilson(math.fsum(values) / len(values), len(values))
            if is_share(name)
            else intervals.of_mean(values)
        )
        if edges is not None:
            found[name] = Interval(max(0.0, edges[0]), edges[1], len(values), "answers")
    return found


def against(answer: Answer, wording: str) -> dict[str, float]:
    """One answer and its reference."""
    return {name: figure(answer.text, wording) for name, figure in AGAINST.items()}


def _figures(answers: Sequence[Answer], wordings: Sequence[str | None]) -> dict[str, list[float]]:
    found = {
        name: [value for answer in answers if (value := figure(answer)) is not None] for name, figure in FIGURES.items()
    }
    scores = [
        against(answer, wording)
        for answer, wording in zip(answers, wordings, strict=bool(wordings))
        if wording is not None
    ]
    return found | ({name: [score[name] for score in scores] for name in AGAINST} if scores else {})
