"""What a job of SFT trains on: its data set as token sequences on disk, made once, then found in the cache."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import numpy.typing as npt
import tokenizers

from alpaca_operator.api.conversations import DataSource
from alpaca_operator.api.mixture import Share
from alpaca_operator.api.sft import SFTSpec
from workloads.data import example_shares as shares
from workloads.data import mixture as mix
from workloads.data.bad_rows import BadRows
from workloads.data.chat_templates.template import Template
from workloads.data.conversations import prepare
from workloads.data.packing import ExampleFiles, Integers, write_sequences
from workloads.data.report import Report, plural
from workloads.data.rows import read
from workloads.errors import DataError
from workloads.system import atomic

PREPARATION_VERSION = 2
"""Raised whenever the same rows would be prepared otherwise, so that older caches are left alone."""
LOG_SECONDS = 15.0
"""Between two lines about how far it is."""


class ResolvedInput(Protocol):
    """An input as the runtime hands it over."""

    @property
    def path(self) -> Path: ...
    @property
    def digest(self) -> str: ...


@dataclass(frozen=True)
class Prepared:
    """What a job trains on: columns ``input_ids``, ``labels`` (IGNORED where no loss is taken) and ``seq_lengths``.

    A sequence holds one example, or several when packed; ``seq_lengths`` are theirs. The first label of each example is IGNORED: the
    token before it belongs to its neighbour.
    """

    train: datasets.Dataset
    validation: datasets.Dataset | None
    report: dict[str, Any]
    """``train``, and ``validation`` where there is one, as `Report.as_dict` gives them; ``lines`` for the log; ``mixture``, a `mixture.Part` as a
    dict for each source."""


def datasets_for(
    spec: SFTSpec,
    inputs: Mapping[str, ResolvedInput],
    template: Template,
    cache: Path,
    seed: int,
    *,
    log: Callable[[str], None] = print,
    heartbeat: Callable[[], None] = lambda: None,
) -> Prepared:
    """Tokenised sequences of ``spec.dataset``: made once and kept in ``cache``, found there by every later run of the same.

    Several processes may call this at once: one prepares, the others wait, or, where a volume has no locks, each prepares and one is kept. ``heartbeat`` is called while work goes on. Raises DataError
    for a row that cannot be used, and where no example is left.
    """
    folder = cache / "datasets" / _cache_key(spec, inputs, template, seed)
    with atomic.file_lock(folder, heartbeat):
        prepared = _load(folder)
        if prepared is not None:
            log(f"data: found prepared in {folder}")
        else:
            atomic.discard(folder)
            with atomic.made_once(folder, heartbeat) as partial:
                _prepare_into(partial, spec, inputs, template, seed, _ProgressLog(log, heartbeat))
            prepared = _load(folder)
            assert prepared is not None, f"{folder} was just written"
    for line in (*(f"template: {note}" for note in template.notes), *prepared.report["lines"]):
        log(f"data: {line}")
    return prepared


class _ProgressLog:
    """Says how far a long preparation is."""

    def __init__(self, log: Callable[[str], None], heartbeat: Callable[[], None]) -> None:
        self._log, self._heartbeat, self._logged = log, heartbeat, time.monotonic()

    def __call__(self, report: Report) -> None:
        self._heartbeat()
        if time.monotonic() - self._logged > LOG_SECONDS:
            self._logged = time.monotonic()
            self._log(f"data: {report.read:,} conversations read, {report.tokens:,} tokens")


def _prepare_into(
    folder: Path,
    spec: SFTSpec,
    inputs: Mapping[str, ResolvedInput],
    template: Template,
    seed: int,
    on_progress: _ProgressLog,
) -> None:
    """Fills ``folder`` with train.arrow, validation.arrow and, last, report.json."""
    dataset, length = spec.dataset, spec.training.sequence_length
    reports: dict[str, Report] = {}
    lines: list[str] = []
    parts = {"train": dataset.train} | ({"validation": dataset.validation} if dataset.validation else {})
    mixture: list[mix.Part] = []
    for part, sources in parts.items():
        report = reports[part] = Report(bad=BadRows.of(dataset), sequence_length=length, packed=dataset.packing)
        with ExampleFiles(folder / f"{part}.tokens") as examples:
            for number, source in enumerate(sources):
                rows = read([(source, inputs[f"dataset.{part}[{number}]"].path)], report, part)
                for example in prepare(rows, template, dataset, length, report, seed=seed, on_progress=on_progress):
                    examples.add(example, number)
            if not len(examples):
                raise DataError(_nothing_left(part, report))
            if part == "validation":
                chosen = _evaluated(spec, examples, np.arange(len(examples)), seed)
                write_sequences(folder / "validation.arrow", examples, [chosen], report, on_progress)
                continue
            chosen = shares.taken(dataset.train, examples, seed)
            if not dataset.validation and dataset.validation_split:
                held_out = held_out_of(examples.conversations[chosen], dataset.validation_split)
                if held_out.any():
                    aside = reports["validation"] = Report(sequence_length=length, packed=dataset.packing)
                    evaluated = _evaluated(spec, examples, chosen[held_out], seed)
                    write_sequences(folder / "validation.arrow", examples, [evaluated], aside, on_progress)
                    chosen = chosen[~held_out]
                else:
                    lines.append("no validation: too few different conversations to set any aside")
            rounds, mixture = shares.rounds(dataset.train, examples, chosen, seed)
            write_sequences(folder / "train.arrow", examples, rounds, report, on_progress)
    for part, report in reports.items():
        lines += [f"{part}: {line}" for line in (report.lines() if report.read else report.lines()[1:])]
    record = {part: report.as_dict() for part, report in reports.items()}
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.arrow")}
    (folder / "report.json").write_text(
        json.dumps(
            {"report": record | {"lines": lines, "mixture": [vars(one) for one in mixture]}, "sizes": sizes},
            ensure_ascii=False,
        ),
        encoding="utf-8",
    )


def _evaluated(spec: SFTSpec, examples: ExampleFiles, chosen: Integers, seed: int) -> Integers:
    """Those of the ``chosen`` validation examples that an evaluation reads."""
    limit = spec.dataset.max_eval_tokens
    if limit is None:
        return chosen
    numbers, tokens = examples.conversations[chosen], examples.lengths[chosen]
    return chosen[mix.evaluated(limit, numbers, tokens, seed) > 0]


def _nothing_left(part: str, report: Report) -> str:
    if not report.read:
        return f"dataset.{part}: no rows in {len(report.files)} {plural(len(report.files), 'file')}: check the uri"
    why = "; ".join(f"{count:,} {reason}" for reason, count in report.dropped.most_common(3))
    return (
        f"dataset.{part}: no example is left of {report.read:,} {plural(report.read, 'conversation')} ({why}): "
        "check format and columns, or raise training.sequenceLength"
    )


def held_out_of(conversations: npt.NDArray[np.uint64], share: float) -> npt.NDArray[np.bool_]:
    """Which examples are set aside: those of the ``share`` of different conversations with the lowest numbers.

    A conversation keeps its side when others are added or removed, but for those at the border. At least one is set aside and one
    kept, where there are two.
    """
    numbers = np.unique(conversations)
    count = min(max(1, round(len(numbers) * share)), len(numbers) - 1)
    return conversations < numbers[count] if count else np.zeros(len(conversations), dtype=bool)


def _cache_key(spec: SFTSpec, inputs: Mapping[str, ResolvedInput], template: Template, seed: int) -> str:
    dataset = spec.dataset

    def described(part: str, sources: Sequence[DataSource]) -> list[Any]:
        return [
            [inputs[f"dataset.{part}[{index}]"].digest, source.format, source.columns, *_weighed(source)]
            for index, source in enumerate(sources)
        ]

    material = [
        PREPARATION_VERSION,
        tokenizers.__version__,
        described("train", dataset.train),
        described("validation", dataset.validation),
        dataset.model_dump(mode="json", exclude={"train", "validation", "max_eval_tokens"}),
        spec.training.sequence_length,
        seed,
        template.name,
        template.digest,
        *([] if dataset.max_eval_tokens is None else [dataset.max_eval_tokens]),
    ]
    return hashlib.sha256(json.dumps(material, sort_keys=True).encode()).hexdigest()[:32]


def _weighed(source: DataSource) -> list[Any]:
    """What shapes how much of it is trained on."""
    if not isinstance(source, Share) or source.is_whole:
        return []
    return [source.model_dump(mode="json", include=set(Share.model_fields))]


def _load(folder: Path) -> Prepared | None:
    """What lies there, or None unless it is whole."""
    try:
        record = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in record["sizes"].items())
    except (OSError, ValueError, KeyError):
        return None
    if not whole:
        return None
    parts = {Path(name).stem: datasets.Dataset.from_file(str(folder / name)) for name in record["sizes"]}
    return Prepared(parts["train"], parts.get("validation"), record["report"])
