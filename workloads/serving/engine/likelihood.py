"""How likely tokens were to the model itself, before temperature, penalties or anything else that a request sets changed that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

SLICE = 64
"""Positions looked at together: their chances over a vocabulary of 128,000 tokens in float32 are 33 MB."""


@dataclass(frozen=True)
class Likelihood:
    """Of one token where it stands."""

    token: int
    logprob: float
    """Natural logarithm of its chance."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens there with theirs, the likeliest first."""


@dataclass(eq=False)
class Likelihoods:
    """Those of an answer, as it is written, and of its prompt where that is wanted. Filled in the scheduler's thread."""

    top: int = 0
    """How many of the likeliest tokens are noted."""
    of_prompt: bool = False
    prompt: list[Likelihood] = field(default_factory=list)
    """One less than the prompt has tokens: nothing foretells the first."""
    answer: list[Likelihood] = field(default_factory=list)

    def read(self, start: int, logits: torch.Tensor, prompt: Sequence[int]) -> None:
        """Logits (positions, vocabulary) behind the tokens of ``prompt`` from ``start`` on. Those that are noted already, as the prompt had
        to be read again, are passed over; behind its last token there is none."""
        following = prompt[len(self.prompt) + 1 : start + len(logits) + 1]
        known = len(self.prompt) - start
        self.prompt += likelihoods(logits[known : known + len(following)], following, self.top)

    def write(self, logits: torch.Tensor, token: int) -> None:
        """Logits (vocabulary) that a token of the answer was chosen by."""
        self.answer += likelihoods(logits[None], [token], self.top)


def likelihoods(logits: torch.Tensor, tokens: Sequence[int], top: int) -> list[Likelihood]:
    """Of one token for each row of ``logits`` (positions, vocabulary). What is no number stays none."""
    found: list[Likelihood] = []
    for start in range(0, len(tokens), SLICE):
        chosen = torch.tensor(tokens[start : start + SLICE], device=logits.device)
        chances = logits[start : start + SLICE].to(torch.float32).log_softmax(-1)
        own = chances.gather(-1, chosen[:, None])[:, 0].tolist()
        best = chances.topk(top, dim=-1) if top else None
        for row, logprob in enumerate(own):
            likeliest = zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True) if best else ()
            found.append(Likelihood(int(chosen[row]), logprob, tuple(likeliest)))
    return found
