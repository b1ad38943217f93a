"""A corpus as blocks of tokens: made once, kept on disk in 2 or 4 bytes a token, mapped into memory and cut into blocks when read.

What lies on disk is the documents end to end, whatever the size of a block: another `training.blockSize` reads the same file. A corpus
that is too large for the disk is streamed instead: tokenised while training, shuffled in a buffer.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tokenizers
from torch.utils.data import IterableDataset

from alpaca_operator.api.corpus import CorpusSource
from alpaca_operator.api.pretrain import PretrainSpec
from workloads.data import tokenize
from workloads.data.corpus import OTHER_SPLITS, Tally, documents, files_of
from workloads.data.tokenize import TokenizerSpec
from workloads.errors import DataError
from workloads.system import atomic, cgroup
from workloads.system.describe import some

PREPARATION = 1
"""Raised whenever the same text would become other tokens, so that older caches are left alone."""
SHORTEST = 2
"""Tokens of a block in which there is something to predict."""
BUFFER_TOKENS = 1 << 24
"""Tokens that streamed blocks are shuffled among: 32 or 64 MB."""
WINDOW_TOKENS = 1 << 23
"""Tokens at the start of a streamed corpus from which blocks are set aside for validation."""
LOG_SECONDS = 15.0


class ResolvedInput(Protocol):
    """An input as the runtime hands it over."""

    @property
    def path(self) -> Path: ...
    @property
    def digest(self) -> str: ...


class Blocks:
    """Blocks of tokens, by number: ``input_ids``, ``labels`` (the same) and ``seq_lengths``, as the collator takes them."""

    def __init__(self, ids: np.ndarray[Any, Any], size: int, numbers: np.ndarray[Any, Any] | None = None) -> None:
        self._ids = ids
        self._size = size
        self._numbers = np.arange(blocks_in(len(ids), size)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = int(self._numbers[index]) * self._size
        return _row(self._ids[start : start + self._size])

    def tokens(self) -> int:
        """In all blocks together."""
        starts = self._numbers.astype(np.int64) * self._size
        return int(np.minimum(self._size, len(self._ids) - starts).sum())


class Stream(IterableDataset[dict[str, Any]]):
    """Blocks of a corpus that is read again and again, shuffled anew each time: ``length`` in all, always the same ones in the same
    order."""

    def __init__(
        self,
        passes: Callable[[], Iterator[np.ndarray[Any, Any]]],
        size: int,
        length: int,
        seed: int,
        aside: Iterable[int] = (),
    ) -> None:
        self._passes = passes
        self._size = size
        self._length = length
        self._seed = seed
        self._aside = frozenset(aside)
        self._buffer = max(16, BUFFER_TOKENS // size)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(_row, islice(self._shuffled(), self._length))

    def _shuffled(self) -> Iterator[np.ndarray[Any, Any]]:
        for number in count():
            draw = np.random.default_rng([self._seed, number])
            held: list[np.ndarray[Any, Any]] = []
            for at, block in enumerate(cut(self._passes(), self._size)):
                if at in self._aside:
                    continue
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
    """``train``, and ``validation`` where it was read from files of its own; ``lines`` for the log."""


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
    size, seed = spec.training.block_size, spec.training.seed
    lines: list[str] = []
    train: Blocks | Stream
    validation = None
    report: dict[str, Any] = {}
    if spec.dataset.validation:
        tokens = tokenised("validation", spec.dataset.validation, inputs, recipe, cache, log, heartbeat)
        validation = Blocks(tokens.ids(), size)
        report["validation"] = tokens.report
        lines += [f"validation: {line}" for line in tokens.lines]
    share = 0.0 if spec.dataset.validation else spec.dataset.validation_split
    if spec.dataset.streaming:
        train, aside, about = _streamed(spec, inputs, recipe, share, processes, heartbeat)
        validation = validation or aside
        lines += [f"train: {line}" for line in about]
    else:
        tokens = tokenised("train", spec.dataset.train, inputs, recipe, cache, log, heartbeat)
        report["train"] = tokens.report
        lines += [f"train: {line}" for line in tokens.lines]
        kept, held_out = split(blocks_in(tokens.count, size), share, seed)
        train = Blocks(tokens.ids(), size, kept)
        if len(held_out):
            validation = Blocks(tokens.ids(), size, held_out)
        elif share:
            lines.append(
                "no validation: the text is a single block; lower training.blockSize, or name dataset.validation"
            )
    lines.append(_plan(train, validation, size))
    for line in lines:
        log(f"data: {line}")
    return Prepared(train, validation, report | {"lines": lines})


def _plan(train: Blocks | Stream, validation: Blocks | None, size: int) -> str:
    streamed = isinstance(train, Stream)
    amount = f"{len(train):,} blocks of {size} tokens" + ("" if streamed else f" ({train.tokens():,} tokens)")  # type: ignore[union-attr]
    aside = f"{len(validation):,} blocks ({validation.tokens():,} tokens)" if validation is not None else "none"
    return f"{'streamed for training' if streamed else 'for training'}: {amount}; for validation: {aside}"


# Tokens on disk


@dataclass(frozen=True)
class Tokens:
    """Documents end to end in a file."""

    path: Path
    dtype: np.dtype[Any]
    count: int
    report: dict[str, Any]
    lines: list[str]

    def ids(self) -> np.ndarray[Any, Any]:
        """Mapped into memory."""
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(self.count,))


def tokenised(
    part: str,
    sources: Sequence[CorpusSource],
    inputs: Mapping[str, ResolvedInput],
    recipe: TokenizerSpec,
    cache: Path,
    log: Callable[[str], None],
    heartbeat: Callable[[], None],
) -> Tokens:
    """The text of ``sources`` (``dataset.<part>`` of the spec) as tokens: made once and kept in ``cache``, found there later.

    Several processes may call this at once: one works, the others wait.
    """
    folder = cache / "tokens" / _key(part, sources, inputs, recipe)
    with atomic.file_lock(folder, heartbeat):
        tokens = _load(folder)
        if tokens is not None:
            log(f"data: found {part} tokenised in {folder}")
            return tokens
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _tokenise_into(partial, part, sources, inputs, recipe, log, heartbeat)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        tokens = _load(folder)
        assert tokens is not None, f"{folder} was just written"
        return tokens


def _tokenise_into(
    folder: Path,
    part: str,
    sources: Sequence[CorpusSource],
    inputs: Mapping[str, ResolvedInput],
    recipe: TokenizerSpec,
    log: Callable[[str], None],
    heartbeat: Callable[[], None],
) -> None:
    """Fills ``folder`` with tokens.bin and, last, report.json."""
    tally = Tally()
    files = files_of(located(part, sources, inputs), tally, part)
    whole = sum(file.path.stat().st_size for file in files)
    began = logged_at = time.monotonic()
    amount = ended = 0
    with (folder / "tokens.bin").open("wb") as out:
        for ids in tokenize.encode(documents(files, tally), recipe, cgroup.cores(), heartbeat):
            ids.tofile(out)
            amount += len(ids)
            ended += int((ids == recipe.eos).sum())
            if time.monotonic() - logged_at > LOG_SECONDS:
                logged_at = time.monotonic()
                log(f"data: {part}: {amount:,} tokens, {tally.bytes / max(1, whole):.0%} of {whole:,} bytes read")
    if amount < SHORTEST:
        raise DataError(
            f"dataset.{part}: no text in {some([str(file.path) for file in files], 3)}: name files that hold some"
        )
    seconds = time.monotonic() - began
    lines = [
        *tally.lines(),
        f"{ended:,} documents, {amount:,} tokens, {tally.characters / amount:.3f} characters a token",
        f"tokenised in {seconds:.1f} s, {tally.bytes / seconds / 1e6:.1f} MB/s",
    ]
    report = {
        "files": tally.files,
        "bytes": tally.bytes,
        "characters": tally.characters,
        "documents": ended,
        "tokens": amount,
        "charactersPerToken": round(tally.characters / amount, 4),
    }
    atomic.sync(folder / "tokens.bin")
    record = {"dtype": recipe.dtype.str, "count": amount, "report": report, "lines": lines}
    (folder / "report.json").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")


def _load(folder: Path) -> Tokens | None:
    """What lies there, or None unless it is whole."""
    try:
        record = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        dtype = np.dtype(record["dtype"])
        path = folder / "tokens.bin"
        if path.stat().st_size != record["count"] * dtype.itemsize:
            return None
        return Tokens(path, dtype, record["count"], record["report"], record["lines"])
    except (OSError, ValueError, KeyError):
        return None


def _key(part: str, sources: Sequence[CorpusSource], inputs: Mapping[str, ResolvedInput], recipe: TokenizerSpec) -> str:
    material: list[Any] = [
        PREPARATION,
        tokenizers.__version__,
        recipe.digest,
        part,  # of a data set with splits, each part reads another one
        [
            [inputs[f"dataset.{part}[{index}]"].digest, source.format, source.encoding, source.columns.text]
            for index, source in enumerate(sources)
        ],
    ]
    # Tokens were once made of the other splits and of byte order marks too: what holds them must not be found.
    tally = Tally()
    files = files_of(located(part, sources, inputs), tally, part)
    material += [OTHER_SPLITS] if OTHER_SPLITS in tally.problems else []
    material += ["byte order marks left out"] if any(file.is_marked() for file in files) else []
    return hashlib.sha256(json.dumps(material).encode()).hexdigest()[:32]


def located(
    part: str, sources: Sequence[CorpusSource], inputs: Mapping[str, ResolvedInput]
) -> list[tuple[CorpusSource, Path]]:
    """Each source with the path where it was found."""
    return [(source, inputs[f"dataset.{part}[{index}]"].path) for index, source in enumerate(sources)]


# Blocks


def blocks_in(amount: int, size: int) -> int:
    """Blocks that ``amount`` tokens make: what is left over makes a shorter one, where it is long enough to learn from."""
    whole, rest = divmod(amount, size)
    return whole + (rest >= SHORTEST)


def split(amount: int, share: float, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Numbers of the blocks to train on and of those set aside, ascending; at least one of each, where there are two."""
    aside = min(max(1, round(amount * share)), amount - 1) if share else 0
    order = np.random.default_rng(seed).permutation(amount)
    return np.sort(order[aside:]), np.sort(order[:aside])


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


def _streamed(
    spec: PretrainSpec,
    inputs: Mapping[str, ResolvedInput],
    recipe: TokenizerSpec,
    share: float,
    processes: int,
    heartbeat: Callable[[], None],
) -> tuple[Stream, Blocks | None, list[str]]:
    """The stream, what of its start is set aside for validation, and lines on the files."""
    size, training = spec.training.block_size, spec.training
    tally = Tally()
    files = files_of(located("train", spec.dataset.train, inputs), tally)

    def passes() -> Iterator[np.ndarray[Any, Any]]:
        return tokenize.encode(documents(files, Tally()), recipe, cgroup.cores(), heartbeat)

    numbers: np.ndarray[Any, Any] = np.empty(0, dtype=np.int64)
    validation = None
    if share:
        window = list(islice(cut(passes(), size), max(2, WINDOW_TOKENS // size)))
        _, numbers = split(len(window), share, training.seed)
        if len(numbers):
            validation = Blocks(np.concatenate([window[number] for number in numbers]), size)
    assert training.max_steps is not None, "a rule of the spec"
    length = training.max_steps * training.batch_size_per_device * training.gradient_accumulation * processes
    whole = sum(file.path.stat().st_size for file in files)
    stream = Stream(passes, size, length, training.seed, map(int, numbers))
    about = f"{len(files):,} files, {whole:,} bytes, tokenised while training"
    return stream, validation, [about, *tally.problem_lines()]


def _row(ids: np.ndarray[Any, Any]) -> dict[str, Any]:
    ids = ids.astype(np.int64)
    return {"input_ids": ids, "labels": ids, "seq_lengths": (len(ids),)}
