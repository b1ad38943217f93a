"""What a chain has gained, told from the artifacts that it left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads.storage import lineage

REPORT = "report/report.json"
CORPUS = "clean/report.json"
SHOWN = 60
"""Characters of an answer that fit on a line."""


def figures(folder: Path) -> Iterator[str]:
    """A line each for what the corpus has of the raw text, what a token holds, how well held-out text is foretold, and what 4 bits cost."""
    vocabulary, stage_1, stage_2, small = (
        lineage.read(folder / name).metrics for name in ("vocabulary", "stage-1", "stage-2", "poet-4bit")
    )
    corpus = json.loads((folder / CORPUS).read_text(encoding="utf-8"))["total"]
    yield _line("characters of raw text, kept", corpus["read"]["characters"], corpus["kept"]["characters"], ",")
    yield _line("characters per token", vocabulary["charactersPerTokenBase"], vocabulary["charactersPerToken"], ".2f")
    yield _line("perplexity of held-out text", stage_1["perplexityBefore"], stage_2["perplexity"], ",.0f")
    yield _line("bits per byte of it", stage_1["bitsPerByteBefore"], stage_2["bitsPerByte"], ".2f")
    of_answers = {name: value["bitsPerByte"] for name, value in _by_model(folder).items()}
    yield _line("bits per byte of the answers", of_answers["base"], of_answers["poet"], ".2f")
    yield _line("megabytes, and in 4 bits", _mega(small["bytesBefore"]), _mega(small["bytesAfter"]), ".1f")


def answers(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each question with the answer of every model."""
    for asked in _report(folder)["questions"]:
        yield asked["question"], {name: _in_a_line(given["text"]) for name, given in asked["answers"].items()}


def _by_model(folder: Path) -> dict[str, dict[str, float]]:
    return {model["name"]: model["metrics"] for model in _report(folder)["models"]}


def _report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return found


def _line(what: str, before: float | None, after: float | None, form: str) -> str:
    told = ["none" if value is None else format(value, form) for value in (before, after)]
    return f"{what:<30}{told[0]:>8} → {told[1]}"


def _mega(size: float | None) -> float | None:
    return None if size is None else size / 1e6


def _in_a_line(text: str) -> str:
    line = " / ".join(part.strip() for part in text.splitlines()) or "(nothing)"
    return line if len(line) <= SHOWN else line[:SHOWN] + "…"
