"""Which documents of a tokenised corpus are set aside for validation: whole ones, and of equal ones all or none.

Documents lie end to end, each ended by the same token. A block knows nothing of them, so they are parted before blocks are cut: what
is foretold in validation was not read in training, not even its beginning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

Ids = np.ndarray[Any, Any]

RECORD = np.dtype([("end", "<i8"), ("digest", "<u8")])
"""A document: where it ends, in tokens from the start of the corpus, and a number that equal documents share."""
READ_TOKENS = 1 << 22
"""Of a file of tokens, looked at together."""


def index(arrays: Iterable[Ids], eos: int) -> np.ndarray[Any, Any]:
    """A RECORD for each document of a corpus that comes in arrays of any length."""
    ends: list[int] = []
    digests: list[int] = []
    at, content = 0, _content()
    for part, ended in _parts(arrays, eos):
        at += len(part)
        content.update(part)
        if ended:
            ends.append(at)
            digests.append(_number(content))
            content = _content()
    if at > (ends[-1] if ends else 0):
        ends.append(at)
        digests.append(_number(content))
    found = np.empty(len(ends), dtype=RECORD)
    found["end"], found["digest"] = ends, digests
    return found


def in_pieces(ids: Ids, heartbeat: Callable[[], None]) -> Iterator[Ids]:
    """A mapped file of tokens, a piece at a time."""
    for start in range(0, len(ids), READ_TOKENS):
        heartbeat()
        yield np.asarray(ids[start : start + READ_TOKENS])


def lengths(documents: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Tokens of each document."""
    return np.diff(documents["end"], prepend=0)


def set_aside(
    digests: np.ndarray[Any, Any], tokens: np.ndarray[Any, Any], share: float, seed: int
) -> np.ndarray[Any, Any]:
    """Which of the documents with these ``digests``, and so many ``tokens`` each, are for validation: drawn by ``seed`` and by what they say, not by where they stand.

    Together they hold at most ``share`` of the tokens, unless the smallest of them holds more: one at least is set aside and one kept,
    where there are two that differ.
    """
    _, number = np.unique(digests, return_inverse=True)
    sizes = np.bincount(number, weights=tokens)
    chosen = np.zeros(len(sizes), dtype=bool)
    if not share or len(sizes) < 2:
        return np.zeros(len(digests), dtype=bool)
    left, smallest = share * sizes.sum(), sizes.min()
    for candidate in np.random.default_rng(seed).permutation(len(sizes)).tolist():
        if left < smallest:
            break
        if sizes[candidate] <= left:
            chosen[candidate] = True
            left -= sizes[candidate]
    if not chosen.any():
        chosen[sizes.argmin()] = True
    taken: np.ndarray[Any, Any] = chosen[number]
    return taken


def ranges(documents: np.ndarray[Any, Any], chosen: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Where the ``chosen`` documents begin and end, neighbours together: a row ``[start, end]`` each, in tokens."""
    edges = np.diff(chosen.astype(np.int8), prepend=0, append=0)
    begins = np.concatenate([[0], documents["end"]])
    return np.column_stack([begins[np.flatnonzero(edges == 1)], begins[np.flatnonzero(edges == -1)]])


def without(arrays: Iterable[Ids], eos: int, aside: Collection[int], longest: int) -> Iterator[Ids]:
    """The same tokens but for the documents whose number is in ``aside``, none of which has more than ``longest`` tokens."""
    held: list[Ids] = []
    size = 0
    for part, ended in _parts(arrays, eos):
        held.append(part)
        size += len(part)
        if size > longest or (ended and number_of(held) not in aside):
            yield from held
            held = []
        if ended:
            held, size = [], 0
    yield from held


def number_of(parts: Sequence[Ids]) -> int:
    """The number of the document that ``parts`` make, as in RECORD."""
    content = _content()
    for part in parts:
        content.update(part)
    return _number(content)


def first_documents(arrays: Iterable[Ids], eos: int, tokens: int) -> list[Ids]:
    """The documents that end within the first ``tokens`` of a corpus."""
    found: list[Ids] = []
    held: list[Ids] = []
    seen = 0
    for part, ended in _parts(arrays, eos):
        seen += len(part)
        if seen > tokens:
            break
        held.append(part)
        if ended:
            found.append(np.concatenate(held))
            held = []
    return found


def _parts(arrays: Iterable[Ids], eos: int) -> Iterator[tuple[Ids, bool]]:
    """Parts of documents, and whether the document ends with this one."""
    for ids in arrays:
        start = 0
        for end in (np.flatnonzero(ids == eos) + 1).tolist():
            yield ids[start:end], True
            start = end
        if start < len(ids):
            yield ids[start:], False


def _content() -> Any:
    return hashlib.blake2b(digest_size=RECORD["digest"].itemsize)


def _number(content: Any) -> int:
    return int.from_bytes(content.digest(), "little")
