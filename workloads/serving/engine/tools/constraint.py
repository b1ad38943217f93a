"""An answer that is held to a grammar: of its next token those that keep it there, by llguidance."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from workloads.serving.engine.text import Pieces
from workloads.serving.engine.tools import trial
from workloads.serving.engine.tools.grammar import GrammarError
from workloads.serving.refusal import cut

MOST_SHOWN = 300
"""Characters of what is wrong with a grammar."""
NO_TOKEN = ("", "NoExtension", "NoExtensionBias")


@dataclass(frozen=True)
class _Words:
    """A vocabulary as llguidance asks for it."""

    tokens: list[bytes]
    special_token_ids: list[int]
    eos_token_id: int
    bos_token_id: None = None

    def __call__(self, text: bytes | str) -> list[int]:
        """Asked only where tokens are forced, and grammars here say `no_forcing`."""
        raise NotImplementedError


class Vocabulary:
    """The tokens of a model, as grammars see them."""

    def __init__(self, pieces: Pieces, control: Collection[int], ends: Collection[int]) -> None:
        """``control``: tokens that no text can spell. ``ends``: those that end an answer, once the grammar lets it end."""
        words = [pieces.of(number) for number in range(pieces.count)]
        # A model without one goes on until nothing may follow: the id behind its last stands for what it never writes.
        last = sorted(number for number in ends if number < len(words)) or [len(words)]
        words += [b""] * (last == [len(words)])
        special = sorted({number for number in (*control, *last) if number < len(words)})
        self._tokenizer = LLTokenizer(TokenizerWrapper(_Words(words, special, last[0])), eos_token=last)

    def constraint(self, grammar: str) -> Constraint:
        """For one answer. Raises GrammarError with the reason."""
        trial.check(grammar)
        matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0)
        if matcher.is_error():
            raise GrammarError(_reason(matcher.get_error()))
        return Constraint(matcher)


class Constraint:
    """One answer's."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher
        self.problem: str | None = None
        """Why the answer cannot go on."""

    def narrow(self, scores: torch.Tensor) -> None:
        """Take from the scores (vocabulary) of the next token those that lead out of the grammar. Where none is left they stay as they
        are, and `problem` says why."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")[: len(scores)]
        if self._matcher.is_error() or not bits.any():
            self.problem = _reason(self._matcher.get_error())
            return
        allowed = torch.zeros(len(scores), dtype=torch.bool)
        allowed[: len(bits)] = torch.from_numpy(bits.astype(bool))
        scores.masked_fill_(~allowed.to(scores.device), float("-inf"))

    def take(self, token: int) -> bool:
        """The answer goes on with ``token``; whether it is whole, and nothing can follow."""
        if not self._matcher.consume_token(token):
            self.problem = _reason(self._matcher.get_error())
            return False
        return bool(self._matcher.is_stopped())


def _reason(told: str) -> str:
    """What llguidance says, without its excerpt of the grammar and its state."""
    first = re.split(r"\n(?:<state>|   1 \|)", told)[0].strip()
    if first.startswith("at "):
        first = first.partition(": ")[2]
    for prefix in ("failed to compile JSON schema: ", 'failed to parse "%json": '):
        first = first.removeprefix(prefix)
    return cut("the model has no token for what has to come next" if first in NO_TOKEN else first, MOST_SHOWN)
