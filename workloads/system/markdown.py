"""Markdown for reports and cards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def front_matter(header: Mapping[str, Any]) -> str:
    """The header of a card that the Hugging Face hub reads: YAML between rules, its values written as JSON, which YAML contains."""
    return (
        "---\n"
        + "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in header.items())
        + "---\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with its head; what would end a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
