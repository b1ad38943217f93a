"""What has to be true of a merged vocabulary, and what it gains: measured on the files as they are published."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads.errors import InputError
from workloads.system.describe import first_line
from workloads.vocabulary.extend import LATIN, NORMAL, SPACE, TOKENIZER_MODEL

SEED = 42
LATIN_LINES = 2000
"""Lines of English, and of random words from the base's own Latin pieces, that must be cut as before."""
CHUNK = 512
"""Code points that are put through a tokenizer at once."""
SURROGATES = range(0xD800, 0xE000)
"""Halves of UTF-16 pairs: no characters."""
ENGLISH = (
    "The old poet put down his cup and looked across the river at the mountains.",
    "It wasn't until 1998 that anyone noticed: 3,417 of the 12,005 pages were missing!",
    "def add(left: int, right: int) -> int:\n    return left + right  # no overflow in Python",
    'She said, "I\'ll be back by 7:30 p.m." — and, for once, she was.',
    "Visit https://example.org/a/b?c=d&e=%20f#g or write to someone@example.org.",
    "naïve café, Zürich, São Paulo, Ångström, façade; déjà vu, señor, Łódź",
    "    four spaces, then\ttabs,  double  spaces and trailing ones   ",
    "ALL CAPS, camelCase, snake_case, kebab-case, x = (y ** 2) / (z % 7) - 1e-9;",
)


@dataclass(frozen=True)
class Encoder:
    """A tokenizer to measure, whatever reads it."""

    name: str
    encode: Callable[[str], list[int]]
    """Ids without BOS and EOS."""


@dataclass(frozen=True)
class Agreement:
    """How often two readers of one tokenizer give the same ids."""

    compared: int
    differing: tuple[str, ...]

    @property
    def share(self) -> float:
        return 1 - len(self.differing) / max(1, self.compared)


@dataclass(frozen=True)
class RoundTrip:
    """Characters that do not come back from their ids."""

    characters: int
    lost: tuple[int, ...]
    """Code points."""


def encoder(name: str, path: Path, where: str) -> Encoder:
    """The tokenizer in a folder, or in a file, to compare with. Raises InputError where there is none."""
    model, fast = (path / TOKENIZER_MODEL, path / "tokenizer.json") if path.is_dir() else (path, path)
    try:
        if model.is_file() and model.suffix == ".model":
            from sentencepiece import SentencePieceProcessor

            return Encoder(name, SentencePieceProcessor(model_file=str(model)).encode)
        if fast.is_file():
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(fast))
            return Encoder(name, lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
    except Exception as error:
        raise InputError(f"{where}: {path} cannot be read as a tokenizer: {first_line(error)}") from error
    raise InputError(f"{where}: {path} has neither {TOKENIZER_MODEL} nor tokenizer.json")


def characters_per_token(tokenizer: Encoder, lines: Sequence[str]) -> float:
    """Characters of ``lines`` over their tokens."""
    return sum(map(len, lines)) / max(1, sum(len(tokenizer.encode(line)) for line in lines))


def agreement(one: Encoder, other: Encoder, lines: Sequence[str]) -> Agreement:
    """The lines whose ids differ between two readers."""
    return Agreement(len(lines), tuple(line for line in lines if one.encode(line) != other.encode(line)))


def latin_lines(base: Any) -> list[str]:
    """English sentences, and random strings of the Latin pieces of ``base`` (a ModelProto), which reach every one of its merges."""
    chance = random.Random(SEED)
    pieces = [piece.piece for piece in base.pieces if piece.type == NORMAL and LATIN.fullmatch(piece.piece)]
    if not pieces:
        return list(ENGLISH)
    strings = ("".join(chance.choices(pieces, k=chance.randrange(1, 30))) for _ in range(LATIN_LINES))
    return [*ENGLISH, *(string.replace(SPACE, " ") for string in strings)]


def round_trip(encode: Callable[[str], list[int]], decode: Callable[[list[int]], str]) -> RoundTrip:
    """Every character of Unicode, assigned or not, there and back.

    SPACE itself is left out: the format writes spaces with it, so that it comes back as one from any such tokenizer.
    """
    count, lost = 0, []
    for chunk in _unicode():
        count += len(chunk)
        text = "".join(chunk)
        if decode(encode(text)) != text:
            lost += [ord(character) for character in chunk if decode(encode(f"a{character}b")) != f"a{character}b"]
    return RoundTrip(count, tuple(lost))


def _unicode() -> Iterator[list[str]]:
    for start in range(0, 0x110000, CHUNK):
        chunk = [chr(code) for code in range(start, start + CHUNK) if code not in SURROGATES and chr(code) != SPACE]
        if chunk:
            yield chunk
