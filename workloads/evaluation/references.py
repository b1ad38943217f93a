"""Answers held against references: whether they say the same, how many words they share, how many stretches of characters.

Words are those of Latin letters, and single characters of everything else, so that nothing has to cut Chinese into words first. As in
SQuAD's scores (Rajpurkar et al., arXiv:1606.05250) punctuation and capitals do not count; of Chinese they are what CMRC 2018 has.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import Any

WORD = re.compile(r"\b\w{1,20}\b|\S", re.ASCII)
"""Words of Latin letters, and single characters of everything else, endless words among it."""
IN_NUMBERS = re.compile(r"(?<=[0-9])[.,](?=[0-9])")


def exact_match(answer: str, reference: str) -> float:
    """1 where both are the same words, else 0."""
    return float(words(answer) == words(reference))


def token_f1(answer: str, reference: str) -> float:
    """The harmonic mean of the share of the answer's words that are the reference's, and of the reference's that are the answer's."""
    ours, theirs = words(answer), words(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs))


@lru_cache(maxsize=1 << 16)
def chrf(answer: str, reference: str) -> float:
    """chrF2 (Popović, WMT 2015) as sacreBLEU computes it, between 0 and 1: stretches of up to six characters that both have."""
    score: float = _chrf().sentence_score(answer, [reference]).score / 100
    return score


def words(text: str) -> list[str]:
    """Without punctuation, in small letters, full-width forms as the others. Punctuation parts words, but not the digits of a number."""
    text = IN_NUMBERS.sub("", unicodedata.normalize("NFKC", text).casefold())
    return WORD.findall("".join(" " if unicodedata.category(one).startswith("P") else one for one in text))


@lru_cache(maxsize=1)
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
