"""How the next token of one answer is chosen, in chat and in evaluation: transformers' own processors, in the order in which `generate`
applies them, and draws from a generator of the answer's own. One seed gives one answer, whoever asks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from workloads.models.likeliest import likeliest

COLDEST = 0.01
"""Lowest temperature that is divided by; 0 divides by nothing and takes the likeliest. At 1e-40 scores become infinite, no chances can be
drawn from, and the step would fail for everybody. At 0.01 the likeliest token is certain already. vLLM has the same bound."""


@dataclass(frozen=True)
class Controls:
    """What may be set about an answer."""

    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    max_tokens: int
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    min_p: float = 0.0
    """Tokens that are less likely than this share of the likeliest are not drawn."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Tokens, with what is added to their logits."""


class Sampler:
    """How one answer's tokens are chosen. What others ask meanwhile changes nothing: ids and random numbers are its own."""

    def __init__(self, controls: Controls, prompt: Sequence[int], device: torch.device) -> None:
        self._ids = torch.empty(len(prompt) + controls.max_tokens, dtype=torch.long, device=device)
        self._ids[: len(prompt)] = torch.tensor(prompt, dtype=torch.long)
        self._length = len(prompt)
        self.processors = _processors(controls, len(prompt))
        self.generator: torch.Generator | None = None
        if controls.temperature > 0:
            self.generator = torch.Generator(device)
            if controls.seed is None:
                self.generator.seed()
            else:
                self.generator.manual_seed(controls.seed)
        counts = bool(controls.frequency_penalty or controls.presence_penalty)
        self.alike: Hashable = (
            controls.repetition_penalty,
            controls.logit_bias,
            *((controls.temperature, controls.top_k, controls.top_p, controls.min_p) if self.generator else (None,)),
            id(self) if counts else None,
        )
        """Answers of which this is equal have the same processors, which take them together."""

    @property
    def ids(self) -> torch.Tensor:
        """Prompt and answer so far."""
        return self._ids[: self._length]

    def note(self, token: int) -> None:
        """The answer goes on with this token."""
        if self._length < len(self._ids):
            self._ids[self._length] = token
            self._length += 1


def choose(samplers: Sequence[Sampler], logits: torch.Tensor) -> torch.Tensor:
    """The next token of each answer (rows) by its logits (rows, vocabulary). They are not noted yet: see `Sampler.note`."""
    alike: dict[Hashable, list[int]] = {}
    for row, sampler in enumerate(samplers):
        alike.setdefault(sampler.alike, []).append(row)
    chosen = torch.empty(len(samplers), dtype=torch.long, device=logits.device)
    for rows in alike.values():
        group = [samplers[row] for row in rows]
        scores = logits[rows].to(torch.float32)
        if group[0].processors:
            ids = _together(group)
            # transformers' LogitsProcessorList looks every signature up at every call, which takes longer than the processors.
            for processor in group[0].processors:
                scores = processor(ids, scores)
        if group[0].generator is None:
            chosen[rows] = likeliest(scores)
            continue
        for row, sampler, chances in zip(rows, group, scores.softmax(-1), strict=True):
            chosen[row] = torch.multinomial(chances, 1, generator=sampler.generator)[0]
    return chosen


def _together(group: Sequence[Sampler]) -> torch.Tensor:
    """The ids of answers of different lengths in one tensor. Shorter ones repeat their first: that a token is there twice changes no
    processor."""
    if len(group) == 1:
        return group[0].ids[None]
    longest = max(len(sampler.ids) for sampler in group)
    together = torch.stack([sampler.ids[0].expand(longest) for sampler in group])
    for row, sampler in enumerate(group):
        together[row, : len(sampler.ids)] = sampler.ids
    return together


def _processors(controls: Controls, prompt_length: int) -> list[LogitsProcessor]:
    chosen: list[LogitsProcessor] = []
    if controls.logit_bias:
        chosen.append(Bias(controls.logit_bias))
    if controls.repetition_penalty != 1.0:
        chosen.append(RepetitionPenaltyLogitsProcessor(controls.repetition_penalty))
    if controls.frequency_penalty or controls.presence_penalty:
        chosen.append(CountPenalty(controls.frequency_penalty, controls.presence_penalty, prompt_length))
    if controls.temperature > 0:
        if controls.temperature != 1.0:
            chosen.append(TemperatureLogitsWarper(max(controls.temperature, COLDEST)))
        if controls.top_k:
            chosen.append(TopKLogitsWarper(controls.top_k))
        if controls.top_p < 1.0:
            chosen.append(TopPLogitsWarper(controls.top_p))
        if controls.min_p:
            chosen.append(MinPLogitsWarper(controls.min_p))
    return chosen


class Bias(LogitsProcessor):
    """OpenAI's logit_bias."""

    def __init__(self, biases: Sequence[tuple[int, float]]) -> None:
        self._tokens = torch.tensor([token for token, _ in biases])
        self._values = torch.tensor([value for _, value in biases], dtype=torch.float32)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_add(
            1, self._tokens.to(scores.device), self._values.to(scores.device).expand(len(scores), -1)
        )


class CountPenalty(LogitsProcessor):
    """OpenAI's frequency and presence penalties, over the tokens of the answer so far.

    Formula: https://platform.openai.com/docs/api-reference/chat, ``mu[j] - c[j] * frequency - (c[j] > 0) * presence``.
    """

    def __init__(self, frequency: float, presence: float, prompt_length: int) -> None:
        self._frequency, self._presence, self._prompt_length = frequency, presence, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        counts = torch.bincount(input_ids[0, self._prompt_length :], minlength=scores.shape[-1])[None].to(scores.dtype)
        return scores - self._frequency * counts - self._presence * (counts > 0)
