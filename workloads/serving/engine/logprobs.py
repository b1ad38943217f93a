"""Likelihoods in the shapes of OpenAI's API: that of conversations, and the older one of texts."""

from __future__ import annotations

import codecs
import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from workloads.serving.engine import refusals

if TYPE_CHECKING:  # they bring torch: the port is open before that is imported
    from workloads.serving.engine.likelihood import Likelihood
    from workloads.serving.engine.text import Pieces

LEAST = -9999.0
"""In place of what JSON cannot say: the logarithm of no chance at all. vLLM has the same."""


def of_chat(likelihoods: Iterable[Likelihood], pieces: Pieces) -> dict[str, Any]:
    """`choices[].logprobs` of a conversation. Raises Refusal for what is no number."""

    def told(token: int, logprob: float) -> dict[str, Any]:
        content = pieces.of(token)
        return {"token": _named(content), "logprob": _number(logprob), "bytes": list(content)}

    content = [
        {**told(each.token, each.logprob), "top_logprobs": [told(*other) for other in each.top]} for each in likelihoods
    ]
    return {"content": content, "refusal": None}


class TextLogprobs:
    """`choices[].logprobs` of a text, whole or in parts: each part goes on from where the one before ended."""

    def __init__(self, pieces: Pieces, control: Collection[int], unseen: int = 0) -> None:
        """``unseen``: characters at the start of what the tokens stand for that are not in the text."""
        self._pieces, self._control = pieces, control
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._length = -unseen

    def take(self, entries: Iterable[tuple[int, Likelihood | None]]) -> dict[str, Any]:
        """Tokens, with their likelihoods but for the first of a prompt. Raises Refusal for what is no number."""
        part: dict[str, list[Any]] = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
        for token, likelihood in entries:
            content = self._pieces.of(token)
            part["text_offset"].append(max(0, self._length))
            part["tokens"].append(_called(content))
            part["token_logprobs"].append(None if likelihood is None else _number(likelihood.logprob))
            part["top_logprobs"].append(None if likelihood is None else self._top(likelihood))
            if token not in self._control:
                self._length += len(self._utf8.decode(content))
        return part

    def _top(self, likelihood: Likelihood) -> dict[str, float]:
        """The likeliest and the token itself. Of tokens by the same name the likelier one is told."""
        found: dict[str, float] = {}
        for token, logprob in (*likelihood.top, (likelihood.token, likelihood.logprob)):
            found.setdefault(_called(self._pieces.of(token)), _number(logprob))
        return found


def _number(logprob: float) -> float:
    if math.isnan(logprob):
        raise refusals.not_a_number()
    return max(LEAST, logprob)


def _called(content: bytes) -> str:
    """As OpenAI names a token of a text: part of a character by its bytes."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"bytes:{_named(content)}"


def _named(content: bytes) -> str:
    """As OpenAI names a token of a conversation."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in content)
