"""Markdown for reports and cards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def front_matter(header: Mapping[str, Any]) -> str:
    """The header of a card that the Hugging Face hub reads: YAML between rules, its values written as JSON, which YAML contains."""
    return (
        "---\n"
        + "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in header.items())
        + "---\n"
    )


MARKS = re.compile(r"[\\`*!~$<>&|]|\[(?!\d+\](?![(\[:]))|(?<!\w)_|_(?!\w)")
"""What Markdown reads, wherever it stands. Of an underscore within a word and of an index it makes nothing, and names keep theirs."""
ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
LEADING = re.compile(r"^\s*(?:#(?=#*(?:\s|$))|[-+](?=\s|$)|[-=](?=[-=\s]*$)|\d+(?=[.)](?:\s|$)))")
"""What makes a heading, a list or a rule at the start of a text."""
ADDRESS = re.compile(r"(?i)\b(https?|ftp)(?=://)|\bwww(?=\.)|(?<=\w)@(?=[\w-]+\.)")
"""What becomes a link by itself."""


def plain(text: str) -> str:
    """A text that Markdown shows as it is: what a model or a file said becomes no link, picture, table or HTML. Lines stay lines."""
    marked = MARKS.sub(lambda mark: ENTITIES.get(mark[0], f"\\{mark[0]}"), text)
    marked = LEADING.sub(lambda mark: f"{mark[0][:-1]}&#{ord(mark[0][-1])};", marked)
    return ADDRESS.sub(lambda word: f"{word[0][:-1]}&#{ord(word[0][-1])};", marked).replace("\n", "<br>")


class Own(str):
    """Markdown that is meant, in a table whose other cells are shown as they are."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with its head, whose cells are shown as they are."""
    lines = [[cell if isinstance(cell, Own) else plain(str(cell)) for cell in line] for line in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
