"""Held-out conversations as each of several models reads them: the same answers for all, or the comparison means nothing.

Vocabularies make different lengths of one text. A conversation that one model cannot hold whole is therefore left out for all, and
counted.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alpaca_operator.api.conversations import DataSource, SFTDataset
from alpaca_operator.api.evaluation import HeldOut
from workloads.data import conversations, prepared
from workloads.data.bad_rows import BadRows
from workloads.data.chat_templates.template import Template
from workloads.data.report import Report
from workloads.data.rows import Reading, Row, read
from workloads.errors import DataError
from workloads.evaluation.questions import HELD_OUT, Question

Examples = list[conversations.Example]


@dataclass(frozen=True)
class Rows:
    """What is scored."""

    by_model: dict[str, Examples]
    """The same answers for each, in its own tokens."""
    left_out: int
    """Examples that not every model can hold whole."""
    lines: tuple[str, ...]
    """What was read and mended, for log and report."""


def prepare(
    spec: HeldOut,
    inputs: Mapping[str, prepared.ResolvedInput],
    templates: Mapping[str, Template],
    *,
    heartbeat: Callable[[], None] = lambda: None,
) -> Rows:
    """Rows of ``spec`` in the tokens of every model of ``templates``. ``heartbeat`` may raise, to stop.

    Raises DataError for a row that cannot be used, and where no answer is left that every model can hold.
    """
    located = [(source, inputs[f"dataset.validation[{number}]"].path) for number, source in enumerate(spec.validation)]
    dataset = SFTDataset(train=spec.validation, system_prompt=spec.system_prompt)
    reports = {name: Report(bad=BadRows.of(spec), sequence_length=spec.sequence_length) for name in templates}

    def on_progress(report: Report) -> None:
        heartbeat()

    found: dict[str, Examples] = {}
    for name, template in templates.items():
        report = reports[name]
        rows = read(located, report, "validation")
        if spec.samples is not None:
            rows = iter(drawn(rows, spec.samples))
        try:
            found[name] = list(
                conversations.prepare(rows, template, dataset, spec.sequence_length, report, on_progress=on_progress)
            )
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        report.examples, report.trained_tokens = len(found[name]), sum(int(row.loss_mask.sum()) for row in found[name])
    kept = common(found)
    first = next(iter(reports.values()))
    if not any(kept.values()):
        raise DataError(_nothing_left(reports, spec.sequence_length))
    left_out = max(len(found[name]) - len(kept[name]) for name in found)
    lines = [f"{name}: template: {note}" for name, template in templates.items() for note in template.notes]
    lines += [_as_named(line, located) for line in first.lines() if "examples," not in line]
    if left_out:
        lines.append(
            f"left out: {left_out:,} that not every model can hold in {spec.sequence_length} tokens: raise dataset.sequenceLength to "
            "measure them too"
        )
    for name, rows_of_one in kept.items():
        scored = sum(int(row.loss_mask.sum()) for row in rows_of_one)
        lines.append(f"{name}: {len(rows_of_one):,} rows, {scored:,} tokens of answers")
    return Rows(kept, left_out, tuple(lines))


def questions(
    spec: HeldOut,
    inputs: Mapping[str, prepared.ResolvedInput],
    count: int,
    *,
    heartbeat: Callable[[], None] = lambda: None,
    log: Callable[[str], None] = lambda line: None,
) -> list[Question]:
    """``count`` of the conversations, those that are scored before others, each up to its last answer, which is the reference.

    Raises DataError for a row that cannot be used, and where none ends in an answer to a question in text.
    """
    located = [(source, inputs[f"dataset.validation[{number}]"].path) for number, source in enumerate(spec.validation)]
    reading = Reading(bad=BadRows.of(spec))
    found: dict[str, Question] = {}

    def askable() -> Iterator[Row]:
        for row in read(located, reading, "validation"):
            heartbeat()
            question = _question(row, spec.system_prompt)
            if question is not None:
                found[row.where] = question
                yield row

    asked = [found[row.where] for row in drawn(askable(), count)]
    if not asked:
        raise DataError(
            f"prompts.heldOut: of {reading.read:,} conversations of dataset.validation none ends in an answer to a question in text: ask by "
            "prompts.file"
        )
    if len(asked) < count:
        log(f"prompts: {len(asked):,} of {reading.read:,} held-out conversations can be asked, {count:,} were wanted")
    return asked


def _question(row: Row, system_prompt: str | None) -> Question | None:
    """The last question of a conversation that consists of text alone."""
    messages = [*row.messages]
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    plain = all(
        message["role"] in ("system", "user", "assistant") and message.get("content") and "tool_calls" not in message
        for message in messages
    )
    if len(messages) < 2 or not plain or row.tools or messages[-2]["role"] != "user":
        return None
    before = [{"role": str(one["role"]), "content": str(one["content"])} for one in messages[:-2]]
    if system_prompt and not any(message["role"] == "system" for message in before):
        before.insert(0, {"role": "system", "content": system_prompt})
    return Question(
        text=messages[-2]["content"],
        category=HELD_OUT,
        reference=messages[-1]["content"].strip(),
        where=row.where,
        before=tuple(before),
    )


def _as_named(line: str, located: Sequence[tuple[DataSource, Path]]) -> str:
    """With the uri of a source for the place where it was found, which means nothing to whoever reads the report elsewhere."""
    for source, path in sorted(located, key=lambda pair: -len(str(pair[1]))):
        line = line.replace(str(path), str(source.uri))
    return line


def drawn(rows: Iterator[Row], count: int) -> list[Row]:
    """``count`` of the rows, by what they say and not by where they stand, in their order."""
    numbered = ((_number(row), place, row) for place, row in enumerate(rows))
    chosen = heapq.nsmallest(count, numbered, key=lambda entry: entry[:2])
    return [row for _, _, row in sorted(chosen, key=lambda entry: entry[1])]


def _number(row: Row) -> bytes:
    return hashlib.blake2b(json.dumps(row.messages, sort_keys=True).encode(), digest_size=8).digest()


def common(found: Mapping[str, Examples]) -> dict[str, Examples]:
    """Of each model's examples those of conversations of which all models have the same number of answers."""
    counts = {name: _answers(examples) for name, examples in found.items()}
    first = next(iter(counts.values()))
    whole = {number for number, count in first.items() if all(other[number] == count for other in counts.values())}
    return {name: [row for row in examples if row.conversation in whole] for name, examples in found.items()}


def _answers(examples: Examples) -> Counter[int]:
    """Answers that are scored, by conversation."""
    counts: Counter[int] = Counter()
    for row in examples:
        counts[row.conversation] += int(np.count_nonzero(np.diff(row.loss_mask.astype(np.int8), prepend=0) == 1))
    return counts


def _nothing_left(reports: Mapping[str, Report], length: int) -> str:
    report = next(iter(reports.values()))
    if not report.read:
        files = "1 file" if len(report.files) == 1 else f"{len(report.files)} files"
        return f"dataset.validation: no rows in {files}: check the uri"
    why = "; ".join(
        f"{name}: " + (", ".join(f"{count:,} {reason}" for reason, count in one.dropped.most_common(2)) or "all whole")
        for name, one in reports.items()
    )
    return (
        f"dataset.validation: of {report.read:,} conversations none is left that every model can hold in {length} tokens ({why}): raise "
        "dataset.sequenceLength, or check format and columns"
    )
