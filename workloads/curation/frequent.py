"""What is frequent in a source, and how a tokenizer cuts it, seen from the beginnings of documents that were drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workloads.curation import near

LENGTH = 4
"""Letters and digits of a run: long enough to be recognised, short enough to be met again."""
SHOWN, LOOKED_AT = 15, 1000
"""Runs that are shown, and those that are looked at for them: many overlap with another."""
Tokens = Callable[[str], int]
EMPTY = np.empty(0, dtype=np.uint64)


def runs(texts: Sequence[str]) -> list[tuple[str, int]]:
    """The runs of LENGTH letters that most of the texts have, with the number of texts. Of runs that overlap the most frequent stands for all."""
    found = _counted(texts)
    shown: list[tuple[str, int]] = []
    parts: set[str] = set()
    for run, count in sorted(found.items(), key=lambda entry: (-entry[1], entry[0])):
        if count < 2 or len(shown) == SHOWN:
            break
        inner = {run[:-1], run[1:]}
        if not inner & parts:
            shown.append((run, count))
        parts |= inner
    return shown


def _counted(texts: Sequence[str]) -> Counter[str]:
    """The most frequent runs. Numbers that stand for them are counted first: thousands of texts have millions of runs."""
    plain = [near.plain(text) for text in texts]
    numbered = [near.numbered(letters, LENGTH) for letters in plain]
    values, counts = np.unique(np.concatenate([EMPTY, *map(np.unique, numbered)]), return_counts=True)
    wanted = np.sort(values[np.argsort(-counts, kind="stable")[:LOOKED_AT]])
    found: Counter[str] = Counter()
    if not len(wanted):
        return found
    for letters, numbers in zip(plain, numbered, strict=True):
        nearest = wanted[np.minimum(np.searchsorted(wanted, numbers), len(wanted) - 1)]
        found.update({letters[start : start + LENGTH] for start in np.flatnonzero(nearest == numbers).tolist()})
    return found


def tokens_by(path: Path) -> Tokens:
    """How many tokens of a tokenizer a text has. Raises InputError for a place without one."""
    from workloads.data.tokenizer_io import load_tokenizer

    tokenizer: Any = load_tokenizer(path if path.is_dir() else path.parent)
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def characters_per_token(texts: Sequence[str], tokens: Tokens) -> float | None:
    """None where there is no text."""
    whole = sum(map(tokens, texts))
    return round(sum(map(len, texts)) / whole, 3) if whole else None
