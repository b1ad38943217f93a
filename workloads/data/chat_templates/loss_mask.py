"""A rendered conversation in tokens, with a mask over those that the assistant says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from workloads.data.chat_templates.rendering import Span


class Encoded(NamedTuple):
    """A conversation in tokens."""

    ids: npt.NDArray[np.int32]
    """Without special tokens beyond those the template writes."""
    loss_mask: npt.NDArray[np.bool_]
    """What the assistant says, its end mark included."""
    spans: tuple[Span, ...]
    """Of each assistant message in order: first token, one past the last."""


class RenderedText(NamedTuple):
    """A rendered conversation."""

    text: str
    spans: list[Span]
    """The assistant's stretches, in characters."""
    sealed: bool
    """Whether control tokens stand under their aliases, for the sealed tokenizer."""


FEW_SPANS = 8
"""Up to so many, looking each up in the encoding is quicker than taking the offsets of all tokens out of it."""


def with_loss_mask(encoding: Encoding, rendered: RenderedText, backend: Tokenizer) -> Encoded:
    """``encoding``, made by ``backend`` of the rendered text, with the spans in tokens and their mask."""
    ids = encoding.ids
    spans = _looked_up(encoding, rendered) if len(rendered.spans) <= FEW_SPANS else None
    if spans is None:
        offsets: npt.NDArray[np.int64] = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        spans = _in_tokens(rendered.spans, offsets)
        cuts = [
            start
            for (start, _), (first, last) in zip(rendered.spans, spans, strict=True)
            if first < last and offsets[first, 0] < start
        ]
        if cuts:
            # A token reaches from the prompt into the answer. When the model answers it has the prompt's tokens alone, so the text
            # is encoded in two parts there.
            ids, offsets = _encode_parts(rendered.text, cuts, backend)
            spans = _in_tokens(rendered.spans, offsets)
    mask = np.zeros(len(ids), dtype=bool)
    for first, last in spans:
        mask[first:last] = True
    return Encoded(np.asarray(ids, dtype=np.int32), mask, tuple(spans))


def _looked_up(encoding: Encoding, rendered: RenderedText) -> list[Span] | None:
    """The spans in tokens, where tokens begin at both ends of each; None where one does not."""
    found = []
    for start, end in rendered.spans:
        first = encoding.char_to_token(start)
        last = encoding.char_to_token(end) if end < len(rendered.text) else len(encoding)
        if first is None or last is None or _begins_before(encoding, first, start):
            return None
        if last < len(encoding) and _begins_before(encoding, last, end):
            return None
        found.append((first, last))
    return found


def _begins_before(encoding: Encoding, token: int, character: int) -> bool:
    characters = encoding.token_to_chars(token)
    return characters is not None and characters[0] < character


def _in_tokens(spans: Sequence[Span], offsets: npt.NDArray[np.int64]) -> list[Span]:
    """Tokens that have a character in each span; a character of several tokens belongs to all of them."""
    return [
        (
            int(np.searchsorted(offsets[:, 1], start, side="right")),
            int(np.searchsorted(offsets[:, 0], end, side="left")),
        )
        for start, end in spans
    ]


def _encode_parts(text: str, cuts: Sequence[int], backend: Tokenizer) -> tuple[list[int], npt.NDArray[np.int64]]:
    """Ids and offsets of ``text`` in parts, none but the first with the space that sentencepiece puts before a text."""
    lead = backend.encode("\n", add_special_tokens=False).ids
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    for start, end in pairwise([0, *cuts, len(text)]):
        led = start > 0
        encoding = backend.encode("\n" * led + text[start:end], add_special_tokens=False)
        if led and encoding.ids[: len(lead)] != lead:
            led = False
            encoding = backend.encode(text[start:end], add_special_tokens=False)
        skip = len(lead) if led else 0
        ids += encoding.ids[skip:]
        offsets += [(left + start - led, right + start - led) for left, right in encoding.offsets[skip:]]
    return ids, np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
