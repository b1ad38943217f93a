"""What filters measure in a document, each a share or a number, and which of them a document fails first."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from alpaca_operator.api.dataset import Filters
from workloads.curation import languages

NGRAM = 10
"""Characters of a run, of which repetitions are counted."""
CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]+")
SPACE = re.compile(r"\s+")
KEPT_CATEGORIES = ("L", "N", "P", "Z", "M")
"""Letters, numbers, punctuation, separators, marks: what is no symbol."""


def chinese_share(text: str) -> float:
    """Of the characters that are no space, the share of Chinese ones."""
    solid = len(text) - sum(map(len, SPACE.findall(text)))
    return sum(map(len, CHINESE.findall(text))) / max(1, solid)


def symbol_share(text: str) -> float:
    """The share of characters that are neither letters, digits, spaces nor punctuation."""
    return sum(text.count(character) for character in set(text) if _is_symbol(character)) / max(1, len(text))


@cache
def _is_symbol(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character)[0] not in KEPT_CATEGORIES


def duplicate_line_share(text: str) -> float:
    """The share of the characters that stand in lines which repeat an earlier one."""
    seen: set[str] = set()
    total = repeated = 0
    for line in text.split("\n"):
        line = line.strip()
        total += len(line)
        if line in seen:
            repeated += len(line)
        seen.add(line)
    return repeated / max(1, total)


def duplicate_ngram_share(text: str) -> float:
    """The share of the runs of NGRAM characters that repeat an earlier one."""
    runs = len(text) - NGRAM + 1
    if runs <= 0:
        return 0.0
    return 1 - len({text[start : start + NGRAM] for start in range(runs)}) / runs


def failed(filters: Filters, text: str) -> str | None:
    """The name of the first filter that leaves the document out, with the cheap ones first; None where it stays."""
    if filters.min_characters is not None and len(text) < filters.min_characters:
        return "minCharacters"
    if filters.max_characters is not None and len(text) > filters.max_characters:
        return "maxCharacters"
    if any(word in text for word in filters.blocklist):
        return "blocklist"
    if filters.min_chinese_share is not None and chinese_share(text) < filters.min_chinese_share:
        return "minChineseShare"
    if filters.max_symbol_share is not None and symbol_share(text) > filters.max_symbol_share:
        return "maxSymbolShare"
    if filters.max_duplicate_line_share is not None and duplicate_line_share(text) > filters.max_duplicate_line_share:
        return "maxDuplicateLineShare"
    limit = filters.max_duplicate_ngram_share
    if limit is not None and duplicate_ngram_share(text) > limit:
        return "maxDuplicateNgramShare"
    if filters.language and languages.language_of(text) not in filters.language:
        return "language"
    return None
