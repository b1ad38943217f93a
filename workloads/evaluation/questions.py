"""Questions that models answer side by side: those that ship with the project, and those of the user's own files."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alpaca_operator.api.evaluation import EvaluationSpec, Prompts
from workloads.data import encodings, files
from workloads.data.opening import ending, must_be_text, open_bytes
from workloads.data.selection import archives, select
from workloads.errors import DataError, SpecError
from workloads.system.describe import shown

PRESETS = Path(__file__).with_name("prompts")
SYSTEM_PROMPTS = {"llama2-zh": "You are a helpful assistant. 你是一个乐于助人的助手。"}
"""By the names of `systemPromptPreset`."""
OTHER = "其他"
"""The category of a question that has none."""
HELD_OUT = "heldOut"
"""The category of questions from held-out conversations."""
COLUMNS = {
    "question": ("question", "问题", "prompt", "instruction"),
    "category": ("category", "类别", "分类", "一级分类", "类型"),
    "reference": ("reference", "参考答案", "参考"),
}
"""What a column may be called, most telling first. 答案 is not among them: in Llama-Chinese's tables it is what a model answered."""
TABLES = (".md", ".markdown")
READ = (*files.ROWS, *TABLES)
DIVIDER = re.compile(r"\s*\|?(\s*:?-+:?\s*\|)*\s*:?-+:?\s*\|?\s*")
"""The second line of a Markdown table."""
BREAK = re.compile(r"\\n(?!abla\b|eq\b|u\b|ot\b|i\b|e\b)")
r"""A line break in a cell as Llama-Chinese's tables write it, and no ``\nabla`` of LaTeX."""
CELL = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Question:
    """One of them."""

    text: str
    category: str
    reference: str | None
    """What a good answer says."""
    where: str
    """File and line."""
    before: tuple[dict[str, str], ...] = ()
    """Messages that stand before it."""
    is_answer: bool = True
    """Whether the reference is an answer, and not points that a good one makes: only then are answers held against it word by word."""

    @property
    def wording(self) -> str | None:
        """What answers are held against."""
        return self.reference if self.is_answer else None

    def messages(self, system: str | None) -> list[dict[str, str]]:
        """As a model is asked; ``system`` is said first, unless another system prompt stands there."""
        has_own = any(message["role"] == "system" for message in self.before)
        first = [{"role": "system", "content": system}] if system and not has_own else []
        return [*first, *self.before, {"role": "user", "content": self.text}]


def load(
    spec: Prompts,
    file: Path | None,
    log: Callable[[str], None] = lambda line: None,
    held_out: Sequence[Question] = (),
) -> list[Question]:
    """The questions that ``spec`` asks for, in their order; ``file`` is where its `file` was found, ``held_out`` those of conversations. What
    is not read of a folder goes to ``log``.

    Raises DataError for a file without questions, SpecError for a category that there is not.
    """
    found = list(held_out) or (_preset(spec.preset) if spec.preset is not None else _own(file, log))
    if spec.categories:
        there = list(dict.fromkeys(question.category for question in found))
        for category in spec.categories:
            if category not in there:
                close = difflib.get_close_matches(category, there, n=1, cutoff=0.5)
                hint = f"did you mean {close[0]}? There are" if close else "there are"
                raise SpecError(f"prompts.categories: there is no {category!r}: {hint} {', '.join(there)}")
        found = [question for question in found if question.category in spec.categories]
    return found if spec.limit is None else evenly(found, spec.limit)


def system_prompt(spec: EvaluationSpec) -> str | None:
    """What is said before every question."""
    return SYSTEM_PROMPTS[spec.system_prompt_preset] if spec.system_prompt_preset else spec.system_prompt


def evenly(questions: Sequence[Question], limit: int) -> list[Question]:
    """At most ``limit`` of them, a category in its turn giving its next; in their order."""
    taken: dict[str, int] = {}
    turn = []
    for place, question in enumerate(questions):
        taken[question.category] = taken.get(question.category, 0) + 1
        turn.append((taken[question.category], place))
    chosen = sorted(place for _, place in sorted(turn)[:limit])
    return [questions[place] for place in chosen]


def _preset(name: str) -> list[Question]:
    return [replace(question, is_answer=False) for question in _rows(PRESETS / f"{name}.jsonl")]


def _own(file: Path | None, log: Callable[[str], None]) -> list[Question]:
    assert file is not None, "a rule of the spec"
    chosen = select(file, READ, part=None)
    for line in chosen.lines():
        log(f"prompts: {line}")
    found = [question for path in chosen.files for question in _rows(path)]
    if not found:
        raise DataError(
            f"prompts.file: {shown(file)} holds no question: it needs rows with `question`, or a Markdown table with 问题{archives(chosen)}"
        )
    return found


def _rows(path: Path) -> Iterator[Question]:
    if ending(path) in TABLES:
        yield from _tables(path)
        return
    for where, record in files.records(path):
        if not isinstance(record, dict):
            raise DataError(f"{where}: not an object with `question`: mend or remove this line")
        if ending(path) in (".csv", ".tsv") and not any(str(value or "").strip() for value in record.values()):
            continue  # spreadsheets leave such lines at the end
        yield _question({str(name).strip(): value for name, value in record.items()}, where)


def _question(record: dict[str, Any], where: str) -> Question:
    cells = {
        name: next((record[column] for column in columns if column in record), None)
        for name, columns in COLUMNS.items()
    }
    if cells["question"] is None:
        columns = ", ".join(record) or "nothing"
        raise DataError(f"{where}: no question: a row needs `question` (or 问题), and has {columns}")
    for name, value in cells.items():
        if value is not None and not isinstance(value, str):
            raise DataError(f"{where}: {name} is {type(value).__name__}, not text: mend this line")
    text = (cells["question"] or "").strip()
    if not text:
        raise DataError(f"{where}: the question is empty: mend or remove this line")
    return Question(text, (cells["category"] or "").strip() or OTHER, (cells["reference"] or "").strip() or None, where)


def _tables(path: Path) -> Iterator[Question]:
    """Those of all tables in a Markdown file that have a column of questions, as Llama-Chinese's (一级分类, 二级分类, 问题, 答案)."""
    header: list[str] | None = None
    before: list[str] | None = None
    must_be_text(path)
    with open_bytes(path) as stream:
        lines = stream.read().decode(encodings.encoding_of(path, open_bytes)).splitlines()
    asked = False
    for number, line in enumerate(lines, start=1):
        if "|" not in line:
            header = before = None
            continue
        if before is not None and DIVIDER.fullmatch(line):
            header = header or before  # further down in a table it is a rule between rows
            continue
        before = [_cell(cell) for cell in _cells(line)]
        if header is None or not set(header) & set(COLUMNS["question"]):
            continue
        asked = True
        cells = dict(zip(header, before, strict=False))
        if any(cells.get(column) for column in COLUMNS["question"]):
            yield _question(cells, f"{shown(path)}, line {number}")
    if not asked:
        raise DataError(f"{shown(path)}: no table with a column `question` or 问题: name its columns so")


def _cells(line: str) -> list[str]:
    return CELL.split(line.strip().removeprefix("|").removesuffix("|"))


def _cell(text: str) -> str:
    r"""What a cell says: line breaks are written ``<br>`` or ``\n`` there, and a bar ``\|``."""
    text = re.sub(r"<br\s*/?>", "\n", text.strip(), flags=re.IGNORECASE)
    return BREAK.sub("\n", text).replace("\\|", "|").strip()
