"""The rows that a model is quantized by and measured on: read as fine-tuning reads them, and drawn by a seed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from alpaca_operator.api.conversations import DataSource, SFTDataset
from alpaca_operator.api.quantize import QuantizeSpec
from workloads.data.bad_rows import BadRows
from workloads.data.chat_templates.template import Template
from workloads.data.conversations import Example, prepare, texts
from workloads.data.packing import IGNORED
from workloads.data.prepared import ResolvedInput
from workloads.data.report import Report
from workloads.data.rows import read
from workloads.errors import DataError

HELD_OUT = 0.1
"""Share of the different conversations that is measured on, where no rows are given for it."""
SHORT = "shorter than {} tokens"
EQUAL = "equal to one before"
MEASURED = "among the rows measured on"


@dataclass(frozen=True)
class CalibrationRows:
    """What a model is quantized by, and what it is measured on; no conversation is in both."""

    calibration: list[Example]
    evaluation: list[Example]
    reports: Mapping[str, Report]
    """``calibration``, and ``evaluation`` where it has sources of its own."""

    @property
    def tokens(self) -> int:
        """Of the calibration."""
        return sum(len(row.ids) for row in self.calibration)

    @property
    def digest(self) -> str:
        """``sha256:…`` of the calibration's token ids, row by row in order."""
        digest = hashlib.sha256()
        for row in self.calibration:
            digest.update(len(row.ids).to_bytes(8, "little") + row.ids.astype("<i4").tobytes())
        return f"sha256:{digest.hexdigest()}"

    @property
    def dropped(self) -> Counter[str]:
        """Conversations that the calibration left out, by reason."""
        return self.reports["calibration"].dropped

    def lines(self) -> list[str]:
        """For the log, one fact a line."""
        read = [
            f"{part}: {line}" for part, report in self.reports.items() for line in report.lines()[:-1]
        ]  # the last counts all examples, of which only some were drawn
        measured = sum(int(row.loss_mask.sum()) for row in self.evaluation)
        return [
            *read,
            f"calibration: {len(self.calibration):,} rows drawn, {self.tokens:,} tokens ({self.digest[:19]}…)",
            f"evaluation: {len(self.evaluation):,} rows, loss over {measured:,} tokens",
        ]


def draw(
    spec: QuantizeSpec,
    inputs: Mapping[str, ResolvedInput],
    template: Template,
    *,
    heartbeat: Callable[[], None] = lambda: None,
) -> CalibrationRows:
    """The rows that ``spec`` names. Raises DataError where none, or too few, are left, with what became of them."""
    calibration, evaluation = spec.calibration, spec.evaluation
    reports: dict[str, Report] = {}
    measured: list[Example] = []
    if evaluation.validation:
        report = reports["evaluation"] = Report(
            bad=BadRows.of(calibration), sequence_length=calibration.sequence_length
        )
        drawn = _draw(
            _examples("evaluation.validation", evaluation.validation, spec, inputs, template, report, heartbeat),
            evaluation.samples,
            report,
        )
        if not drawn.rows:
            raise DataError(_nothing_left("evaluation.validation", report, spec))
        measured = _flat(drawn.rows, evaluation.samples)
    report = reports["calibration"] = Report(bad=BadRows.of(calibration), sequence_length=calibration.sequence_length)
    found = _examples("calibration.train", calibration.train, spec, inputs, template, report, heartbeat)
    found = _long_enough(found, calibration.min_tokens, report)
    if measured:
        found = _not_among(found, {row.conversation for row in measured}, report)
    # Held-out conversations come first in the draw, so as many are kept as both sides can take.
    drawn = _draw(found, calibration.samples + (0 if measured else evaluation.samples), report)
    if not drawn.rows:
        raise DataError(_nothing_left("calibration.train", report, spec))
    conversations = drawn.rows
    if not measured:
        if drawn.different == 1:
            raise DataError(
                "calibration.train: one conversation is left, and the model is quantized by one and measured on another: add rows, or "
                "give evaluation.validation"
            )
        held = min(max(1, round(drawn.different * HELD_OUT)), evaluation.samples)
        measured, conversations = _flat(conversations[:held], evaluation.samples), conversations[held:]
    return CalibrationRows(_flat(conversations, calibration.samples), measured, reports)


def _examples(
    field: str,
    sources: Sequence[DataSource],
    spec: QuantizeSpec,
    inputs: Mapping[str, ResolvedInput],
    template: Template,
    report: Report,
    heartbeat: Callable[[], None],
) -> Iterable[Example]:
    """Every row of the sources as tokens with its loss mask."""
    located = [(source, inputs[f"{field}[{index}]"].path) for index, source in enumerate(sources)]
    settings = SFTDataset(train=list(sources), system_prompt=spec.calibration.system_prompt)
    part = "validation" if field.endswith("validation") else "train"
    return prepare(
        read(located, report, part),
        template,
        settings,
        spec.calibration.sequence_length,
        report,
        seed=spec.calibration.seed,
        on_progress=lambda _: heartbeat(),
    )


def whole_texts(
    spec: QuantizeSpec, inputs: Mapping[str, ResolvedInput], template: Template, heartbeat: Callable[[], None]
) -> Iterator[str]:
    """The conversations of every source as text: the first ``calibration.samples`` of each list."""
    for field, sources in (
        ("calibration.train", spec.calibration.train),
        ("evaluation.validation", spec.evaluation.validation),
    ):
        report = Report(bad=BadRows.of(spec.calibration), sequence_length=spec.calibration.sequence_length)
        located = [(source, inputs[f"{field}[{index}]"].path) for index, source in enumerate(sources)]
        settings = SFTDataset(train=spec.calibration.train, system_prompt=spec.calibration.system_prompt)
        rows = read(located, report, field.rpartition(".")[2])
        for text in islice(texts(rows, template, settings, report), spec.calibration.samples):
            heartbeat()
            yield text


def _long_enough(examples: Iterable[Example], least: int, report: Report) -> Iterable[Example]:
    for example in examples:
        if len(example.ids) < least:
            report.dropped[SHORT.format(least)] += 1
        else:
            yield example


def _not_among(examples: Iterable[Example], taken: set[int], report: Report) -> Iterable[Example]:
    for example in examples:
        if example.conversation in taken:
            report.dropped[MEASURED] += 1
        else:
            yield example


@dataclass(frozen=True)
class _Drawn:
    rows: list[list[Example]]
    """Rows of each conversation drawn."""
    different: int
    """Conversations that were drawn from."""


def _draw(examples: Iterable[Example], count: int, report: Report) -> _Drawn:
    """The ``count`` conversations with the lowest numbers, which seed and content alone decide: neither the order of the files nor
    other rows change whether one is drawn. Of equal ones the first is taken."""
    kept: dict[int, list[Example]] = {}
    seen: set[int] = set()
    for example in examples:
        number = example.conversation
        parts = kept.get(number)
        if parts is not None:
            if any(np.array_equal(part.ids, example.ids) for part in parts):
                report.dropped[EQUAL] += 1
            else:
                parts.append(example)  # of a conversation cut into several
            continue
        if number in seen:
            continue  # it was drawn, and had to give way
        seen.add(number)
        kept[number] = [example]
        if len(kept) > 2 * count:
            kept = dict(sorted(kept.items())[:count])
    lowest = sorted(kept.items())[:count]
    report.examples = sum(len(rows) for _, rows in lowest)
    return _Drawn([rows for _, rows in lowest], len(seen))


def _flat(conversations: Iterable[list[Example]], most: int) -> list[Example]:
    return [row for rows in conversations for row in rows][:most]


def _nothing_left(field: str, report: Report, spec: QuantizeSpec) -> str:
    if not report.read:
        return f"{field}: no rows in {len(report.files)} file{'s' if len(report.files) != 1 else ''}: check the uri"
    why = "; ".join(f"{count:,} {reason}" for reason, count in report.dropped.most_common(3))
    short = SHORT.format(spec.calibration.min_tokens)
    if report.dropped[short] == sum(report.dropped.values()):
        remedy = "give longer conversations, or lower calibration.minTokens"
    elif report.dropped[MEASURED]:
        remedy = "give evaluation.validation rows that are not among them"
    else:
        remedy = "check format and columns, or raise calibration.sequenceLength"
    return f"{field}: no row is left of {report.read:,} conversations ({why}): {remedy}"


def as_sequences(rows: Iterable[Example]) -> list[dict[str, Any]]:
    """Rows as training sees them: ``input_ids``, ``labels`` (IGNORED where no loss is taken) and ``seq_lengths``."""
    return [
        {
            "input_ids": row.ids,
            "labels": np.where(row.loss_mask, row.ids, IGNORED).astype(np.int32),
            "seq_lengths": [len(row.ids)],
        }
        for row in rows
    ]
