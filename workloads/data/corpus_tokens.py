"""The text of a corpus as tokens on disk: made once, in 2 or 4 bytes a token, found there by every later run, and mapped into memory.

What lies there is the documents end to end, whatever the size of a block.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tokenizers

from alpaca_operator.api.corpus import CorpusSource
from workloads.data import document_split, tokenize
from workloads.data.bad_rows import BadRows, Choice
from workloads.data.corpus import END, OTHER_SPLITS, CorpusFile, Tally, documents, files_of
from workloads.data.tokenize import TokenizerSpec
from workloads.errors import DataError
from workloads.system import atomic, cgroup
from workloads.system.describe import shown, some

PREPARATION = 1
"""Raised whenever the same text would become other tokens, so that older caches are left alone."""
SHORTEST = 2
"""Tokens of a block in which there is something to predict."""
LOG_SECONDS = 15.0


class ResolvedInput(Protocol):
    """An input as the runtime hands it over."""

    @property
    def path(self) -> Path: ...
    @property
    def digest(self) -> str: ...


@dataclass(frozen=True)
class Tokens:
    """Documents end to end in a file."""

    path: Path
    dtype: np.dtype[Any]
    count: int
    report: dict[str, Any]
    lines: list[str]
    sources: list[int]
    """Documents of each source; they lie in the order of the sources."""

    def ids(self) -> np.ndarray[Any, Any]:
        """Mapped into memory."""
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(self.count,))

    def documents(self, eos: int, heartbeat: Callable[[], None]) -> np.ndarray[Any, Any]:
        """Where each document ends and its number (`document_split.RECORD`): read off the tokens once, then kept beside them."""
        path = self.path.with_name("documents.bin")
        if path.is_file():
            kept = np.fromfile(path, dtype=document_split.RECORD)
            if len(kept) and kept["end"][-1] == self.count:
                return kept
        found = document_split.index(document_split.in_pieces(self.ids(), heartbeat), eos)
        partial = atomic.partial_beside(path)  # every pod has the same process ids
        found.tofile(partial)
        partial.replace(path)
        return found


def tokenised(
    part: str,
    sources: Sequence[CorpusSource],
    inputs: Mapping[str, ResolvedInput],
    recipe: TokenizerSpec,
    cache: Path,
    bad_rows: Choice,
    log: Callable[[str], None],
    heartbeat: Callable[[], None],
) -> Tokens:
    """The text of ``sources`` (``dataset.<part>`` of the spec) as tokens: made once and kept in ``cache``, found there later.

    Several processes may call this at once: one works, the others wait.
    """
    folder = cache / "tokens" / _key(part, sources, inputs, recipe, bad_rows)
    with atomic.file_lock(folder, heartbeat):
        tokens = _load(folder, len(sources))
        if tokens is not None:
            log(f"data: found {part} tokenised in {folder}")
            return tokens
        atomic.discard(folder)
        with atomic.made_once(folder, heartbeat) as partial:
            _tokenise_into(partial, part, sources, inputs, recipe, bad_rows, log, heartbeat)
        tokens = _load(folder, len(sources))
        assert tokens is not None, f"{folder} was just written"
        return tokens


def _tokenise_into(
    folder: Path,
    part: str,
    sources: Sequence[CorpusSource],
    inputs: Mapping[str, ResolvedInput],
    recipe: TokenizerSpec,
    bad_rows: Choice,
    log: Callable[[str], None],
    heartbeat: Callable[[], None],
) -> None:
    """Fills ``folder`` with tokens.bin and, last, report.json."""
    tally = Tally(bad=BadRows.of(bad_rows))
    groups = [files_of([source], tally, part) for source in located(part, sources, inputs)]
    files = [file for group in groups for file in group]
    counts = [0] * len(groups)
    whole = sum(file.path.stat().st_size for file in files)
    began = logged_at = time.monotonic()
    amount = ended = 0
    with (folder / "tokens.bin").open("wb") as out:
        for ids in tokenize.encode(_counted(groups, tally, counts), recipe, cgroup.cores(), heartbeat):
            ids.tofile(out)
            amount += len(ids)
            ended += int((ids == recipe.eos).sum())
            if time.monotonic() - logged_at > LOG_SECONDS:
                logged_at = time.monotonic()
                log(f"data: {part}: {amount:,} tokens, {tally.bytes / max(1, whole):.0%} of {whole:,} bytes read")
    if amount < SHORTEST:
        raise DataError(
            f"dataset.{part}: no text in {some([shown(file.path) for file in files], 3)}: name files that hold some"
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
        "badRows": dict(tally.bad.counted),
        "documents": ended,
        "tokens": amount,
        "charactersPerToken": round(tally.characters / amount, 4),
    }
    atomic.sync(folder / "tokens.bin")
    record = {"dtype": recipe.dtype.str, "count": amount, "report": report, "lines": lines, "sources": counts}
    (folder / "report.json").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")


def _counted(groups: Sequence[Sequence[CorpusFile]], tally: Tally, counts: list[int]) -> Iterator[str]:
    """The documents of all sources, counted for each."""
    for number, files in enumerate(groups):
        has_text = False
        for block in documents(files, tally):
            counts[number] += has_text and block == END
            has_text = block != END
            yield block


def _load(folder: Path, sources: int) -> Tokens | None:
    """What lies there, or None unless it is whole."""
    try:
        record = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        dtype = np.dtype(record["dtype"])
        path = folder / "tokens.bin"
        if path.stat().st_size != record["count"] * dtype.itemsize:
            return None
        # Of several sources a version before this one did not say which document is whose: they are tokenised anew.
        counts = record["sources"] if sources > 1 else [record["report"]["documents"]]
        return Tokens(path, dtype, record["count"], record["report"], record["lines"], counts)
    except (OSError, ValueError, KeyError):
        return None


def _key(
    part: str,
    sources: Sequence[CorpusSource],
    inputs: Mapping[str, ResolvedInput],
    recipe: TokenizerSpec,
    bad_rows: Choice,
) -> str:
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
    # Tokens were once made of the other splits and of byte order marks too, of JSON lines as text, and without what is linked: what holds them
    # must not be found.
    tally = Tally()
    files = files_of(located(part, sources, inputs), tally, part)
    material += [OTHER_SPLITS] if OTHER_SPLITS in tally.problems else []
    material += ["links followed, content looked at"] if any(file.is_read_anew for file in files) else []
    material += ["byte order marks left out"] if any(file.is_marked() for file in files) else []
    limit = BadRows.of(bad_rows).limit
    material += [f"{limit} bad rows passed over"] if limit else []
    return hashlib.sha256(json.dumps(material).encode()).hexdigest()[:32]


def located(
    part: str, sources: Sequence[CorpusSource], inputs: Mapping[str, ResolvedInput]
) -> list[tuple[CorpusSource, Path]]:
    """Each source with the path where it was found."""
    return [(source, inputs[f"dataset.{part}[{index}]"].path) for index, source in enumerate(sources)]
