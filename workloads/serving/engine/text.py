"""From token ids to the text that a user may see, as it grows: no half character, no control token, nothing of the next turn."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
"""How sentencepiece names the pieces that are one byte (byte_fallback)."""
ANCHOR = "a"
"""A letter before a token, for decoders that treat the start of a text in a way of its own."""


class Pieces:
    """The bytes that each token stands for. A character may be spread over several tokens, so bytes and not text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend = tokenizer.backend_tokenizer
        state = json.loads(backend.to_str())
        decoders = _names(state.get("decoder"))
        self._added = {token["id"]: token["content"].encode() for token in state["added_tokens"]}
        self._bytes: list[bytes] = [b""] * (max(backend.get_vocab().values()) + 1)
        if "ByteLevel" in decoders:
            alphabet = _byte_alphabet()
            for piece, number in backend.get_vocab().items():
                self._bytes[number] = bytes(alphabet[char] for char in piece if char in alphabet)
        elif "ByteFallback" in decoders:
            for piece, number in backend.get_vocab().items():
                byte = BYTE_PIECE.fullmatch(piece)
                self._bytes[number] = bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()
        else:
            anchor = backend.encode(ANCHOR, add_special_tokens=False).ids
            before = backend.decode(anchor, skip_special_tokens=False)
            numbers = range(len(self._bytes))
            texts = backend.decode_batch([[*anchor, number] for number in numbers], skip_special_tokens=False)
            for number, text in zip(numbers, texts, strict=True):
                self._bytes[number] = text.removeprefix(before).encode()
        for number, content in self._added.items():
            self._bytes[number] = content

    @property
    def count(self) -> int:
        """Ids that stand for something, and those between them."""
        return len(self._bytes)

    def of(self, number: int) -> bytes:
        """Those of one token; none for an id beyond the vocabulary, which a padded output head can give."""
        return self._bytes[number] if number < len(self._bytes) else b""


class Writer:
    """One answer on its way out.

    ``frame`` is the white space that the format puts around an answer; without one the text is given out as it is, and of one that is
    ``begun`` already the first is behind it. ``stops`` end the answer and are not part of it; ``hidden`` are strings that are left out wherever they come. Of text that may yet turn out to be
    the start of one of them nothing is given out.
    """

    def __init__(
        self,
        pieces: Pieces,
        control: Collection[int] = (),
        frame: tuple[str, str] | None = None,
        stops: Sequence[str] = (),
        hidden: Sequence[str] = (),
        begun: bool = False,
    ) -> None:
        self._pieces = pieces
        self._control = control
        # A sentencepiece answer begins with the space of its first word also where the format says nothing of it.
        self._before, self._after = (frame[0] or " ", frame[1]) if frame else ("", "")
        self._stops = frozenset(filter(None, stops))
        marks = sorted(self._stops | set(filter(None, hidden)), key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, marks)) or "(?!)")
        # The white space of the frame may come before a stop: then it is not part of the answer either.
        self._held_back = _beginnings([*marks, self._after, *(self._after + stop for stop in self._stops)])
        self._longest = max(map(len, self._held_back), default=0)
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._held = ""
        self._given = ""
        """The end of what was given out, as long as a mark can be."""
        self._started = begun
        self.stopped = False
        """A stop string was written: the answer is over."""

    def feed(self, number: int) -> str:
        """The text that a token lets out; often none."""
        if number in self._control:
            return ""
        return self._take(self._utf8.decode(self._pieces.of(number)))

    def end(self) -> str:
        """What was held back and is text after all. Bytes of a character that never became whole are dropped."""
        rest, self._held = self._held, ""
        if not self._started:
            rest = rest.removeprefix(self._before)
        return rest.removesuffix(self._after)

    def _take(self, text: str) -> str:
        if not text or self.stopped:
            return ""
        self._held += text
        # With the end of what was given out: where a mark was taken from between two pieces of text, they may make another.
        while match := self._marks.search(self._given + self._held):
            start, end = max(0, match.start() - len(self._given)), match.end() - len(self._given)
            if match[0] in self._stops:
                self.stopped = True
                self._held = self._held[:start]
                return ""  # end() gives it out: the frame may still have to be cut off
            self._held = self._held[:start] + self._held[end:]
        if not self._started:
            if self._before.startswith(self._held) or not self._held:
                return ""
            self._started = True
            self._held = self._held.removeprefix(self._before)
        keep = next(
            (
                size
                for size in range(min(self._longest, len(self._held)), 0, -1)
                if self._held[-size:] in self._held_back
            ),
            0,
        )
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self._given = (self._given + out)[-self._longest :] if self._longest else ""
        return out


def longest_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Characters of a text that one token can stand for, at most. Where the tokenizer makes texts shorter before it divides them (NFKC,
    spaces drawn together) four times as many, which no text but one made for it exceeds."""
    backend = tokenizer.backend_tokenizer
    longest = max(map(len, backend.get_vocab()))
    keeps_length = _kinds(json.loads(backend.to_str()).get("normalizer")) <= {"Prepend", "Replace"}
    return longest if keeps_length else 4 * longest


def _kinds(part: dict[str, Any] | None) -> set[str]:
    """Types of a normalizer, and in place of a sequence those that it has."""
    if part is None:
        return set()
    if part["type"] == "Sequence":
        return {kind for each in part["normalizers"] for kind in _kinds(each)}
    return {part["type"]}


def _beginnings(marks: Iterable[str]) -> frozenset[str]:
    return frozenset(mark[:size] for mark in marks for size in range(1, len(mark) + 1))


def _names(decoder: dict[str, Any] | None) -> set[str]:
    """Types of a decoder and of those it is a sequence of."""
    if decoder is None:
        return set()
    return {decoder["type"]}.union(*(_names(part) for part in decoder.get("decoders", [])))


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes, as GPT-2 has them: printable ones stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(rest)}
