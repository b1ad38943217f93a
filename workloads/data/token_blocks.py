"""A corpus cut into blocks of tokens, and what of it is for validation.

Whole documents are set aside, and blocks are cut from what is left (`corpus_tokens` has the documents end to end: another
`training.blockSize` reads the same file). A corpus that is too large for the disk is streamed instead: tokenised while training,
shuffled in a buffer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from alpaca_operator.api.pretrain import PretrainSpec
from workloads.data import document_shares, document_split, tokenize
from workloads.data.bad_rows import BadRows
from workloads.data.corpus import Tally, documents, files_of
from workloads.data.corpus_tokens import SHORTEST, ResolvedInput, Tokens, located, tokenised
from workloads.data.mixture import Part, is_weighed
from workloads.data.tokenize import TokenizerSpec
from workloads.errors import DataError, SpecError
from workloads.system import cgroup

BUFFER_TOKENS = 1 << 24
"""Tokens that streamed blocks are shuffled among: 32 or 64 MB."""
WINDOW_TOKENS = 1 << 23
"""Tokens at the start of a streamed corpus from which documents are set aside for validation."""
NOTHING_LEFT = "dataset.train: every document stands in dataset.validation too, which is not trained on: name other text in one of them"


class Blocks:
    """Blocks of tokens, by number: ``input_ids``, ``labels`` (the same) and ``seq_lengths``, as the collator takes them."""

    def __init__(self, ids: np.ndarray[Any, Any], size: int, ranges: np.ndarray[Any, Any] | None = None) -> None:
        """Of ``ids`` those in ``ranges``, end to end: rows ``[start, end]``. None is all of them."""
        self._ids = ids
        self._size = size
        self._ranges = np.array([[0, len(ids)]]) if ranges is None else ranges
        self._ends = np.cumsum(self._ranges[:, 1] - self._ranges[:, 0])
        self._amount = int(self._ends[-1]) if len(self._ends) else 0

    def __len__(self) -> int:
        return blocks_in(self._amount, self._size)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        begin, end = index * self._size, min((index + 1) * self._size, self._amount)
        at = int(np.searchsorted(self._ends, begin, side="right"))
        parts = []
        while begin < end:
            until = min(end, int(self._ends[at]))
            shift = int(self._ranges[at, 1] - self._ends[at])
            parts.append(self._ids[begin + shift : until + shift])
            begin, at = until, at + 1
        return _row(np.concatenate(parts))

    def tokens(self) -> int:
        """In all blocks together."""
        return min(self._amount, len(self) * self._size)


class Stream(IterableDataset[dict[str, Any]]):
    """Blocks of a corpus that is read again and again, shuffled anew each time: ``length`` in all, always the same ones in the same
    order."""

    def __init__(
        self,
        passes: Callable[[], Iterator[np.ndarray[Any, Any]]],
        size: int,
        length: int,
        seed: int,
    ) -> None:
        self._passes = passes
        self._size = size
        self._length = length
        self._seed = seed
        self._buffer = max(16, BUFFER_TOKENS // size)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(_row, islice(self._shuffled(), self._length))

    def _shuffled(self) -> Iterator[np.ndarray[Any, Any]]:
        for number in count():
            draw = np.random.default_rng([self._seed, number])
            held: list[np.ndarray[Any, Any]] = []
            for block in cut(self._passes(), self._size):
                if len(held) < self._buffer:
                    held.append(block)
                    continue
                chosen = int(draw.integers(self._buffer))
                yield held[chosen]
                held[chosen] = block
            if not held:
                raise DataError("dataset.train: no text to train on is left beside validation: name more of it")
            yield from (held[chosen] for chosen in draw.permutation(len(held)))


@dataclass(frozen=True)
class Prepared:
    """What a job trains on."""

    train: Blocks | Stream
    validation: Blocks | None
    report: dict[str, Any]
    """``train``, and ``validation`` where it was read from files of its own; ``lines`` for the log; ``mixture``, a `mixture.Part` as a dict for
    each source."""
    rows: str = ""
    """Which of the documents are trained on, as a digest; empty for all of them. What was trained on others is no start for this."""


def prepare(
    spec: PretrainSpec,
    inputs: Mapping[str, ResolvedInput],
    recipe: TokenizerSpec,
    cache: Path,
    *,
    processes: int = 1,
    log: Callable[[str], None] = print,
    heartbeat: Callable[[], None] = lambda: None,
) -> Prepared:
    """Blocks of ``spec.dataset``. Raises DataError for text that cannot be read, and where there is none."""
    size = spec.training.block_size
    lines: list[str] = []
    report: dict[str, Any] = {}
    own: Tokens | None = None
    if spec.dataset.validation:
        own = tokenised("validation", spec.dataset.validation, inputs, recipe, cache, spec.dataset, log, heartbeat)
        report["validation"] = own.report
        lines += [f"validation: {line}" for line in own.lines]
    parted: Parted
    if spec.dataset.streaming:
        parted = _streamed(spec, inputs, recipe, own, processes, heartbeat)
    else:
        tokens = tokenised("train", spec.dataset.train, inputs, recipe, cache, spec.dataset, log, heartbeat)
        report["train"] = tokens.report
        lines += [f"train: {line}" for line in tokens.lines]
        parted = _stored(spec, tokens, recipe, own, heartbeat)
    lines += parted.lines
    validation = parted.validation
    if own is not None:
        limited = spec.dataset.max_eval_tokens is not None
        found = own.documents(recipe.eos, heartbeat) if limited else None
        validation = (
            Blocks(own.ids(), size) if found is None else _evaluated(spec, own, found, np.ones(len(found), dtype=bool))
        )
    if validation is None and spec.training.early_stopping_patience is not None:
        raise SpecError(
            f"training.earlyStoppingPatience is {spec.training.early_stopping_patience} and dataset.train is a single document, of which "
            "no part can be set aside: name dataset.validation, or remove training.earlyStoppingPatience"
        )
    lines.append(_plan(parted.train, validation, size))
    for line in lines:
        log(f"data: {line}")
    return Prepared(
        parted.train,
        validation,
        report | {"lines": lines, "mixture": [vars(part) for part in parted.parts]},
        parted.rows,
    )


def _plan(train: Blocks | Stream, validation: Blocks | None, size: int) -> str:
    streamed = isinstance(train, Stream)
    amount = f"{len(train):,} blocks of {size} tokens" + ("" if streamed else f" ({train.tokens():,} tokens)")  # type: ignore[union-attr]
    aside = f"{len(validation):,} blocks ({validation.tokens():,} tokens)" if validation is not None else "none"
    return f"{'streamed for training' if streamed else 'for training'}: {amount}; for validation: {aside}"


# Blocks


def blocks_in(amount: int, size: int) -> int:
    """Blocks that ``amount`` tokens make: what is left over makes a shorter one, where it is long enough to learn from."""
    whole, rest = divmod(amount, size)
    return whole + (rest >= SHORTEST)


def cut(arrays: Iterable[np.ndarray[Any, Any]], size: int) -> Iterator[np.ndarray[Any, Any]]:
    """Tokens that come in arrays of any length, in blocks of ``size``; what is left over makes a shorter one."""
    held: np.ndarray[Any, Any] = np.empty(0, dtype="<u2")
    for ids in arrays:
        joined = np.concatenate([held, ids]) if len(held) else ids
        whole = len(joined) // size * size
        yield from joined[:whole].reshape(-1, size)
        held = joined[whole:]
    if len(held) >= SHORTEST:
        yield held


# Training and validation


@dataclass(frozen=True)
class Parted:
    """The text of ``dataset.train`` without what is for validation."""

    train: Blocks | Stream
    validation: Blocks | None
    rows: str
    """As in Prepared."""
    lines: list[str]
    parts: list[Part] = field(default_factory=list)
    """What each source gives; none where it is one, and read once."""


def _stored(
    spec: PretrainSpec, tokens: Tokens, recipe: TokenizerSpec, own: Tokens | None, heartbeat: Callable[[], None]
) -> Parted:
    """Tokens on disk, what is taken of each source, without the documents of ``own`` (validation text of its own), or with some set aside."""
    size, share, sources = spec.training.block_size, spec.dataset.validation_split, spec.dataset.train
    is_plain = len(sources) == 1 and not is_weighed(sources)
    if own is None and not share and is_plain:
        return Parted(Blocks(tokens.ids(), size), None, "", [])
    documents = tokens.documents(recipe.eos, heartbeat)
    mixed = document_shares.Mixed(sources, documents, tokens.sources, spec.training.seed)
    if own is not None:
        aside = np.isin(documents["digest"], own.documents(recipe.eos, heartbeat)["digest"]) & mixed.is_taken
    else:
        aside = np.zeros(len(documents), dtype=bool)
        lengths = document_split.lengths(documents)[mixed.is_taken]
        aside[mixed.is_taken] = document_split.set_aside(
            documents["digest"][mixed.is_taken], lengths, share, spec.training.seed
        )
    ranges, parts = mixed.without(aside)
    if not len(ranges):
        raise DataError(NOTHING_LEFT)
    lines = [] if aside.any() or own or not share else [ONE_DOCUMENT]
    if not aside.any() and not is_weighed(sources):
        return Parted(Blocks(tokens.ids(), size), None, "", lines, parts)
    held_out = None
    if aside.any():
        lengths = document_split.lengths(documents)
        of_all = float(lengths[aside].sum() / lengths[mixed.is_taken].sum())
        lines.append(_told(int(aside.sum()), int(mixed.is_taken.sum()), of_all, own is not None))
        held_out = None if own else _evaluated(spec, tokens, documents, aside)
    rows = hashlib.sha256(ranges.tobytes()).hexdigest()
    return Parted(Blocks(tokens.ids(), size, ranges), held_out, rows, lines, parts)


def _evaluated(
    spec: PretrainSpec, tokens: Tokens, documents: np.ndarray[Any, Any], chosen: np.ndarray[Any, Any]
) -> Blocks:
    """The ``chosen`` documents, or so much of them as an evaluation reads."""
    limit, size = spec.dataset.max_eval_tokens, spec.training.block_size
    if limit is None:
        return Blocks(tokens.ids(), size, document_split.ranges(documents, chosen))
    lengths = np.where(chosen, document_split.lengths(documents), 0)
    read = document_shares.evaluated(limit, documents["digest"], lengths, spec.training.seed)
    return Blocks(tokens.ids(), size, document_shares.ranges(documents, read))


ONE_DOCUMENT = "no validation: the text is a single document, of which no part is set aside: name dataset.validation"


def _told(aside: int, documents: int, share: float, equal: bool) -> str:
    if equal:
        return f"{aside:,} of {documents:,} documents stand in dataset.validation too, and are not trained on"
    return f"{aside:,} of {documents:,} documents, {share:.1%} of the tokens, are set aside for validation"


def _streamed(
    spec: PretrainSpec,
    inputs: Mapping[str, ResolvedInput],
    recipe: TokenizerSpec,
    own: Tokens | None,
    processes: int,
    heartbeat: Callable[[], None],
) -> Parted:
    """The stream without the documents of ``own`` (validation text of its own), or without some of its start."""
    size, training, share = spec.training.block_size, spec.training, spec.dataset.validation_split
    tally = Tally()
    files = files_of(located("train", spec.dataset.train, inputs), tally)
    whole = sum(file.path.stat().st_size for file in files)
    lines = [f"{len(files):,} files, {whole:,} bytes, tokenised while training", *tally.problem_lines()]

    def read() -> Iterator[np.ndarray[Any, Any]]:
        return tokenize.encode(documents(files, Tally(bad=BadRows.of(spec.dataset))), recipe, cgroup.cores(), heartbeat)

    validation = None
    digests: np.ndarray[Any, Any] = np.empty(0, dtype=np.uint64)
    longest = 0
    if own is not None:
        held_out = own.documents(recipe.eos, heartbeat)
        digests, longest = held_out["digest"], int(document_split.lengths(held_out).max())
    elif share:
        window = document_split.first_documents(read(), recipe.eos, WINDOW_TOKENS)
        started = document_split.index(window, recipe.eos)
        sizes = document_split.lengths(started)
        aside = np.flatnonzero(document_split.set_aside(started["digest"], sizes, share, training.seed))
        lines.append(f"of its first {len(window):,} documents {len(aside):,} are set aside for validation")
        if len(aside):
            digests, longest = started["digest"][aside], int(sizes[aside].max())
            read_of = sizes[aside]
            if spec.dataset.max_eval_tokens is not None:
                read_of = document_shares.evaluated(spec.dataset.max_eval_tokens, digests, read_of, training.seed)
            pieces = [window[number][:length] for number, length in zip(aside, read_of, strict=True)]
            validation = Blocks(np.concatenate(pieces), size)
        else:
            lines.append(ONE_DOCUMENT)
    numbers = frozenset(digests.tolist())

    def passes() -> Iterator[np.ndarray[Any, Any]]:
        return document_split.without(read(), recipe.eos, numbers, longest) if numbers else read()

    assert training.max_steps is not None, "a rule of the spec"
    length = training.max_steps * training.batch_size_per_device * training.gradient_accumulation * processes
    rows = hashlib.sha256(json.dumps(sorted(numbers)).encode()).hexdigest() if numbers else ""
    return Parted(Stream(passes, size, length, training.seed), validation, rows, [f"train: {line}" for line in lines])


def _row(ids: np.ndarray[Any, Any]) -> dict[str, Any]:
    ids = ids.astype(np.int64)
    return {"input_ids": ids, "labels": ids, "seq_lengths": (len(ids),)}
