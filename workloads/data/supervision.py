"""What rows say of their own training: which turns are trained, and which answers are bad.

Every tool has words of its own for this, and a word that is passed over trains what it forbids. So the words that can only mean one thing
are honoured, and any other that speaks of training is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HONOURED = ("loss", "train", "weight")
"""True or 1 trains a turn (or all answers of a row), false or 0 keeps it as context."""
MASKING = frozenset(
    [
        "loss",
        "losses",
        "train",
        "trains",
        "trained",
        "trainable",
        "untrained",
        "mask",
        "masks",
        "masked",
        "unmasked",
        "masking",
        "weight",
        "weights",
        "supervise",
        "supervised",
        "learn",
        "learnable",
        "ignore",
        "ignored",
    ]
)
"""A name with one of these words in it says what is trained."""
PREFERENCE = frozenset(["chosen", "rejected", "reject", "preferred", "dispreferred", "nonpreferred"])
"""A column with one of these words in it holds one of two answers, of which one is bad."""
VERDICT = frozenset(["label", "labels", "kto", "desirable", "undesirable"])
"""A column with one of these words in it, and true or false as its value, says whether the answer of the row is good."""
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
YES, NO = (True, 1, "true", "1"), (False, 0, "false", "0")


def words(name: str) -> frozenset[str]:
    """The words of a name in snake_case, kebab-case or camelCase."""
    return frozenset(word.lower() for word in WORD.findall(name))


def is_trained(turn: Mapping[str, Any], what: str) -> bool | None:
    """Whether ``turn`` (a message or a row; ``what`` names it in messages) is trained; None where it does not say.

    Raises ValueError for a word that is not honoured, and for two that disagree.
    """
    said: dict[str, bool] = {}
    for name, value in turn.items():
        if value is None or value == "" or not words(name) & MASKING:
            continue
        verdict = _verdict(value)
        if verdict is None and isinstance(value, str) and what == ROW:
            continue  # a column of words, such as the name of a split
        if name not in HONOURED or verdict is None:
            raise ValueError(
                f"{what} has {name}: {str(value)[:40]}, which is not known: say train: true or train: false there, or remove it"
            )
        said[name] = verdict
    if len(set(said.values())) > 1:
        raise ValueError(f"{what} says of its training {', '.join(f'{name}: {value}' for name, value in said.items())}")
    return next(iter(said.values()), None)


ROW = "the row"


def check_preferences(row: Mapping[str, Any]) -> None:
    """Raises ValueError for a row of preferences: its bad answers would be trained as good ones."""
    for name, value in row.items():
        if value is None or value == "":
            continue
        if words(name) & PREFERENCE:
            raise ValueError(
                f"its column {name} is one of preferences (DPO), where every row has a bad answer beside the good one: "
                "keep the questions with their good answers alone"
            )
        if words(name) & VERDICT and (verdict := _verdict(value)) is not None:
            raise ValueError(
                f"its column {name} is {str(verdict).lower()}: such rows, as KTO has them, mark bad answers, which fine-tuning would train as "
                f"good ones: keep the rows of good answers, without the column {name}"
            )


def _verdict(value: Any) -> bool | None:
    if isinstance(value, str):
        value = value.strip().lower()
    return True if value in YES else False if value in NO else None
