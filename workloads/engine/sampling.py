"""How the next token of one answer is chosen: transformers' own processors, in the order in which `generate` applies them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True)
class Controls:
    """What a request may set about its answer."""

    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    max_tokens: int
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


class Sampler:
    """Chooses the tokens of one answer. What others ask meanwhile changes nothing: processors and random numbers are its own."""

    def __init__(self, controls: Controls, prompt: Sequence[int], device: torch.device) -> None:
        self._ids = torch.empty((1, len(prompt) + controls.max_tokens), dtype=torch.long, device=device)
        self._ids[0, : len(prompt)] = torch.tensor(prompt, dtype=torch.long)
        self._length = len(prompt)
        self._processors = _processors(controls, len(prompt))
        self._draws = controls.temperature > 0
        self._generator: torch.Generator | None = None
        if self._draws:
            self._generator = torch.Generator(device)
            if controls.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(controls.seed)

    @property
    def is_plain(self) -> bool:
        """The likeliest token is all it asks for, so that a batch of such rows needs one look."""
        return not self._draws and not self._processors

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """The next token (1) by the logits (vocabulary) after all before it. It is not noted yet: see `note`."""
        scores = logits[None].to(torch.float32, copy=True)
        if self._processors:
            scores = self._processors(self._ids[:, : self._length], scores)
        if not self._draws:
            return scores.argmax(-1)
        return torch.multinomial(scores.softmax(-1), 1, generator=self._generator)[0]

    def note(self, token: int) -> None:
        """The answer goes on with this token."""
        if self._length < self._ids.shape[1]:
            self._ids[0, self._length] = token
            self._length += 1


def _processors(controls: Controls, prompt_length: int) -> LogitsProcessorList:
    chosen: list[LogitsProcessor] = []
    if controls.repetition_penalty != 1.0:
        chosen.append(RepetitionPenaltyLogitsProcessor(controls.repetition_penalty))
    if controls.frequency_penalty or controls.presence_penalty:
        chosen.append(CountPenalty(controls.frequency_penalty, controls.presence_penalty, prompt_length))
    if controls.temperature > 0:
        if controls.temperature != 1.0:
            chosen.append(TemperatureLogitsWarper(controls.temperature))
        if controls.top_k:
            chosen.append(TopKLogitsWarper(controls.top_k))
        if controls.top_p < 1.0:
            chosen.append(TopPLogitsWarper(controls.top_p))
    return LogitsProcessorList(chosen)


class CountPenalty(LogitsProcessor):
    """OpenAI's frequency and presence penalties, over the tokens of the answer so far.

    Formula: https://platform.openai.com/docs/api-reference/chat, ``mu[j] - c[j] * frequency - (c[j] > 0) * presence``.
    """

    def __init__(self, frequency: float, presence: float, prompt_length: int) -> None:
        self._frequency, self._presence, self._prompt_length = frequency, presence, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        counts = torch.bincount(input_ids[0, self._prompt_length :], minlength=scores.shape[-1])[None].to(scores.dtype)
        return scores - self._frequency * counts - self._presence * (counts > 0)
