"""Plain text to token ids: those that the tokenizer gives a whole document, computed by pieces and by several processes.

A document may be larger than memory, and one long string is two to three times slower to encode than many short ones. So text is
cut where a cut changes no id: between two characters that no piece of the vocabulary holds side by side, or, for byte-level BPE,
after a line end between two words. What looks like a control token in the text (``</s>``) stays text.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from workloads.errors import DataError, OutOfMemory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PIECE = 2048
"""Characters that are encoded as one string, where they can be cut. Longer strings take more time per character."""
UNIT = 1 << 19
"""About the characters that a process is given at once."""
SMALL = 6
"""Units from which starting processes (about a second) pays."""
AHEAD = 3
"""Units for each process that are handed out before their turn."""
UNCUT = 1 << 22
"""Characters of a document that are held back at most in search of a place to cut."""
SPACE = "▁"
"""Sentencepiece's mark for a space."""
BYTE = re.compile("<0x[0-9A-F]{2}>")
"""A piece that stands for one byte, in vocabularies with byte fallback."""
BETWEEN_WORDS = re.compile(r"(?<=\S\n)(?=\S)")


class TextChunk(NamedTuple):
    """Part of a document, or the whole of it."""

    text: str
    first: bool
    """The document begins with it."""
    last: bool
    """The document ends with it."""


@dataclass(frozen=True)
class TokenizerSpec:
    """What a process needs to know to encode: small enough to be sent to it, and the same for the same ids."""

    state: str
    """The tokenizer (tokenizer.json)."""
    bos: int | None
    """Begins every document; None for a tokenizer that adds none."""
    eos: int
    """Ends every document."""
    rows: int
    """One more than the largest id."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, folder: Path) -> TokenizerSpec:
        """From a tokenizer that was loaded from ``folder``. Raises DataError for one without an end-of-text token."""
        if tokenizer.eos_token_id is None:
            raise DataError(
                f"the tokenizer in {folder} has no end-of-text token, which goes between documents: set eos_token in its tokenizer_config.json"
            )
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        backend |= {"post_processor": None, "truncation": None, "padding": None}
        return cls(
            state=json.dumps(backend),
            bos=tokenizer.bos_token_id if _adds_bos(tokenizer) else None,
            eos=tokenizer.eos_token_id,
            rows=rows_of(tokenizer),
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Two bytes a token where the ids fit, else four."""
        return np.dtype("<u2") if self.rows <= 1 << 16 else np.dtype("<u4")

    @property
    def digest(self) -> str:
        """Of everything that shapes the ids."""
        return hashlib.sha256(json.dumps([self.state, self.bos, self.eos]).encode()).hexdigest()


def rows_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Rows that an embedding needs for this tokenizer: its length, unless ids leave a gap."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether texts begin with BOS for this tokenizer, as its own encoding says."""
    bos = tokenizer.bos_token_id
    return bos is not None and bos != tokenizer.eos_token_id and tokenizer("a")["input_ids"][:1] == [bos]


class SafeSplitPoints:
    """Where text can be cut without a change of ids."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._pairs = _pairs(state) if _merges_freely(state) else None
        self._by_words = is_byte_level(state)

    def last(self, text: str, start: int, end: int) -> int | None:
        """The last such place after ``start`` and at ``end`` at most, before the end of the text; None where there is none."""
        end = min(end, len(text) - 1)
        if self._pairs is not None:
            return next((place for place in range(end, start, -1) if self._parted(text, place)), None)
        while self._by_words and (line := text.rfind("\n", start, end)) > start:
            if BETWEEN_WORDS.match(text, line + 1):
                return line + 1
            end = line
        return None

    def first(self, text: str, start: int) -> int:
        """The first such place after ``start``; the end of the text where there is none."""
        if self._pairs is not None:
            return next((place for place in range(start + 1, len(text)) if self._parted(text, place)), len(text))
        match = BETWEEN_WORDS.search(text, start + 1) if self._by_words else None
        return match.start() if match else len(text)

    def _parted(self, text: str, place: int) -> bool:
        assert self._pairs is not None
        return text[place - 1 : place + 1].replace(SPACE, " ") not in self._pairs


def _merges_freely(state: dict[str, Any]) -> bool:
    """Whether nothing but the vocabulary decides what stays together: sentencepiece with byte fallback, as Llama has it."""
    model, before, normalizer = state["model"], state["pre_tokenizer"], state["normalizer"]
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    return (
        bool(model.get("byte_fallback"))
        and all(step["type"] == "Prepend" or step.get("pattern") == {"String": " "} for step in steps)
        and (before is None or (before["type"] == "Metaspace" and not before.get("split", True)))
    )


def _pairs(state: dict[str, Any]) -> set[str]:
    """Characters that stand side by side in some piece."""
    vocabulary = state["model"]["vocab"]
    pieces = vocabulary if isinstance(vocabulary, dict) else [piece for piece, _ in vocabulary]
    added = [token["content"] for token in state["added_tokens"] if not token["special"]]
    return {
        piece[place : place + 2].replace(SPACE, " ")
        for piece in chain(pieces, added)
        for place in range(len(piece) - 1)
    }


class Encoder:
    """Encodes chunks of documents."""

    def __init__(self, recipe: TokenizerSpec) -> None:
        state = json.loads(recipe.state)
        self.cuts = SafeSplitPoints(state)
        self._recipe = recipe
        self._start = _tokenizer(state)
        self._inside = inside(state)

    def __call__(self, chunks: Sequence[TextChunk]) -> np.ndarray[Any, Any]:
        """Ids of all chunks, end to end, with what begins and ends a document."""
        cut = [(chunk, list(self._pieces(chunk.text))) for chunk in chunks]
        heads = self._start.encode_batch_fast(
            [pieces[0] for chunk, pieces in cut if chunk.first], add_special_tokens=False
        )
        others = self._inside.encode_batch_fast(
            [piece for chunk, pieces in cut for piece in pieces[chunk.first :]], add_special_tokens=False
        )
        head, other = iter(heads), iter(others)
        ids: list[list[int]] = []
        for chunk, pieces in cut:
            if chunk.first:
                ids += [] if self._recipe.bos is None else [[self._recipe.bos]]
                ids.append(next(head).ids)
            ids += [encoding.ids for encoding in islice(other, len(pieces) - chunk.first)]
            ids += [[self._recipe.eos]] if chunk.last else []
        return np.fromiter(chain.from_iterable(ids), dtype=self._recipe.dtype, count=sum(map(len, ids)))

    def _pieces(self, text: str) -> Iterator[str]:
        begin = 0
        while len(text) - begin > PIECE:
            end = self.cuts.last(text, begin, begin + PIECE) or self.cuts.first(text, begin + PIECE)
            yield text[begin:end]
            begin = end
        if begin < len(text):
            yield text[begin:]


def bytes_per_token(tokenizer: PreTrainedTokenizerBase, recipe: TokenizerSpec) -> np.ndarray[Any, Any]:
    """Bytes of text (UTF-8) that each token stands for; their sum over all tokens of a document is its length.

    Control tokens have none. Where the tokenizer puts a space that is not there before a document, its control token takes it back.
    """
    state = json.loads(recipe.state)
    byte_level = is_byte_level(state)
    size = np.zeros(recipe.rows, dtype=np.int64)
    for piece, number in tokenizer.get_vocab().items():
        if byte_level:
            size[number] = len(piece)  # one character stands for each byte
        elif BYTE.fullmatch(piece):
            size[number] = 1
        else:
            size[number] = len(piece.replace(SPACE, " ").encode())
    for token in state["added_tokens"]:
        size[token["id"]] = 0 if token["special"] else len(token["content"].encode())
    if _tokenizer(state).encode("a").tokens != inside(state).encode("a").tokens:
        size[recipe.eos if recipe.bos is None else recipe.bos] = -1
    return size


def is_byte_level(state: dict[str, Any]) -> bool:
    """Whether the pieces of this tokenizer (tokenizer.json) are bytes, a character for each, as GPT-2 and Llama-3 have them."""
    return "ByteLevel" in json.dumps(state["decoder"])


def _tokenizer(state: dict[str, Any]) -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.encode_special_tokens = True  # `</s>` in a text is text
    return tokenizer


def inside(state: dict[str, Any]) -> Tokenizer:
    """The tokenizer as it goes on within a text: without the space that it puts before the start."""

    def stripped(node: Any) -> Any:
        if isinstance(node, list):
            return [stripped(item) for item in node if not (isinstance(item, dict) and item.get("type") == "Prepend")]
        if not isinstance(node, dict):
            return node
        changes = {"prepend_scheme": "never", "add_prefix_space": False}
        return {key: changes.get(key, stripped(value)) for key, value in node.items()}

    normalizer = state["normalizer"]
    if normalizer is not None and normalizer["type"] == "Prepend":
        normalizer = None
    return _tokenizer(state | {"normalizer": stripped(normalizer), "pre_tokenizer": stripped(state["pre_tokenizer"])})


def text_chunks(blocks: Iterable[str], cuts: SafeSplitPoints) -> Iterator[TextChunk]:
    """Documents in parts that fit memory. ``blocks`` are pieces of their text; an empty one ends a document."""
    held, first = "", True
    for block in blocks:
        if not block:
            if held:
                yield TextChunk(held, first, last=True)
            held, first = "", True
            continue
        if held and (place := cuts.last(held + block[0], 0, len(held))):
            yield TextChunk(held[:place], first, last=False)
            held, first = held[place:], False
        held += block
        if len(held) > UNCUT:
            # A table of numbers without end, say: one cut in four million characters may change an id.
            yield TextChunk(held[:-1], first, last=False)
            held, first = held[-1:], False
    if held:
        yield TextChunk(held, first, last=True)


def encode(
    blocks: Iterable[str], recipe: TokenizerSpec, processes: int, heartbeat: Callable[[], None]
) -> Iterator[np.ndarray[Any, Any]]:
    """Ids of all documents in order, in arrays of a few hundred thousand.

    Little text is encoded here; for more, ``processes`` work ahead by AHEAD units each. ``heartbeat`` is called while waiting. Raises
    OutOfMemory when one of them is killed.
    """
    encoder = Encoder(recipe)
    units = _units(text_chunks(blocks, encoder.cuts))
    begun = list(islice(units, SMALL))
    if processes < 2 or len(begun) < SMALL:
        for unit in chain(begun, units):
            heartbeat()
            yield encoder(unit)
        return
    yield from _spread(chain(begun, units), recipe, processes, heartbeat)


def _units(chunks: Iterable[TextChunk]) -> Iterator[list[TextChunk]]:
    unit: list[TextChunk] = []
    size = 0
    for chunk in chunks:
        unit.append(chunk)
        size += len(chunk.text)
        if size >= UNIT:
            yield unit
            unit, size = [], 0
    if unit:
        yield unit


def _spread(
    units: Iterator[list[TextChunk]], recipe: TokenizerSpec, processes: int, heartbeat: Callable[[], None]
) -> Iterator[np.ndarray[Any, Any]]:
    # Spawned, not forked: torch's threads run in this process.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin, (recipe,))
    waiting: deque[Future[np.ndarray[Any, Any]]] = deque()
    try:
        while True:
            waiting += [pool.submit(_encode, unit) for unit in islice(units, processes * AHEAD - len(waiting))]
            if not waiting:
                return
            while not wait([waiting[0]], timeout=1).done:
                heartbeat()
            heartbeat()
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise OutOfMemory(
            "a process that tokenises was killed, as happens when memory runs out: raise pod.resources.limits.memory"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_encoder: Encoder | None = None
"""Of a process that encodes."""


def _begin(recipe: TokenizerSpec) -> None:
    global _encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _encoder = Encoder(recipe)


def _end_with_parent() -> None:
    """A parent that was killed leaves nobody to end the processes it started."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode(unit: list[TextChunk]) -> np.ndarray[Any, Any]:
    assert _encoder is not None
    return _encoder(unit)
