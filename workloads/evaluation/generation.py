"""Answers of a model to many questions, in batches: the same as one question at a time would give.

Prompts are padded on the left, and masked there. Draws come from a generator for each question, seeded by its number, so that an
answer depends on neither its neighbours nor the size of the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from alpaca_operator.api.generation import Decoding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from workloads.data.chat_templates.template import Template

Ending = Literal["Stopped", "TookTheTurn", "Cut"]
"""The model wrote an end mark; it went on with the user's part; it reached the limit."""
TAIL = 24
"""Newest tokens in which the start of the user's turn is looked for."""


@dataclass(frozen=True)
class Answer:
    """What a model wrote."""

    text: str
    """Without control tokens, the format's white space, and whatever follows the end of the turn."""
    tokens: int
    """Generated, the end mark not counted."""
    ending: Ending

    @property
    def stopped(self) -> bool:
        """Whether the model ended it by itself."""
        return self.ending == "Stopped"


def answers(
    model: PreTrainedModel,
    template: Template,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    batch_size: int = 8,
    seed: int = 42,
    heartbeat: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, Answer]]:
    """Each prompt's number with its answer, as they come: prompts of like lengths are answered together, the longest first.

    ``prompts`` are ids that `Template.prompt` gave, each shorter than the model's positions. An answer is at most
    ``decoding.max_new_tokens`` long, less where positions end. ``heartbeat`` is called with every token, and may raise, to stop.
    """
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        batch = [prompts[number] for number in chosen]
        generators = [_generator(seed, prompt) for prompt in batch] if decoding.temperature > 0 else None
        yield from zip(chosen, _batch(model, template, batch, decoding, generators, heartbeat), strict=True)


def _batch(
    model: Any,
    template: Template,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    generators: Sequence[torch.Generator] | None,
    heartbeat: Callable[[], None],
) -> list[Answer]:
    tokenizer = template.tokenizer
    pad = tokenizer.pad_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = getattr(model.config, "max_position_embeddings", None)
    limits = [min(decoding.max_new_tokens, (positions or 1 << 30) - len(prompt)) for prompt in prompts]
    ends = list(dict.fromkeys([*template.stop_ids, *_own_ends(model)]))
    turn = _EndOfTurn(template, width, limits, heartbeat)
    with torch.inference_mode(), _configured(model, _config(max(limits), ends, pad)):
        written = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            logits_processor=_processors(decoding, mask, generators),
            stopping_criteria=StoppingCriteriaList([turn]),
        )
    return [
        _answer(template, row.tolist(), limit, {*ends}) for row, limit in zip(written[:, width:], limits, strict=True)
    ]


def _own_ends(model: Any) -> list[int]:
    """End marks that the model's generation_config.json names."""
    own = model.generation_config.eos_token_id if model.generation_config is not None else None
    return [] if own is None else [own] if isinstance(own, int) else list(own)


def _config(longest: int, ends: list[int], pad: int) -> GenerationConfig:
    """Greedy for transformers: what is drawn is drawn by `Drawn`."""
    return GenerationConfig(
        max_new_tokens=longest,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=pad,
        suppress_tokens=None if pad in ends else [pad],  # it fills rows that have ended, and means nothing else
    )


@contextmanager
def _configured(model: Any, config: GenerationConfig) -> Iterator[None]:
    """`generate` fills whatever it is not told from the model's own settings, a repetition penalty for one."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


def _processors(
    decoding: Decoding, mask: torch.Tensor, generators: Sequence[torch.Generator] | None
) -> LogitsProcessorList:
    found = LogitsProcessorList()
    if decoding.repetition_penalty != 1:
        found.append(RepetitionPenalty(decoding.repetition_penalty, mask))
    if generators is not None:
        found.append(TemperatureLogitsWarper(decoding.temperature))
        if decoding.top_k:
            found.append(TopKLogitsWarper(decoding.top_k))
        if decoding.top_p < 1:
            found.append(TopPLogitsWarper(decoding.top_p))
        found.append(SeededSampling(generators))
    return found


class RepetitionPenalty(LogitsProcessor):
    """transformers' repetition penalty (arXiv:1909.05858), blind to padding, which would else count as text."""

    def __init__(self, penalty: float, mask: torch.Tensor) -> None:
        """``mask``: of the prompts, 0 where they are padded."""
        self._penalty = penalty
        self._mask = mask.bool()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen = torch.zeros_like(scores, dtype=torch.bool)
        mask = torch.nn.functional.pad(
            self._mask.to(scores.device), (0, input_ids.shape[1] - self._mask.shape[1]), value=True
        )
        rows, columns = mask.nonzero(as_tuple=True)
        seen[rows, input_ids[rows, columns]] = True
        punished = torch.where(scores > 0, scores / self._penalty, scores * self._penalty)
        return torch.where(seen, punished, scores)


class SeededSampling(LogitsProcessor):
    """Turns the largest score into a draw: Gumbel noise on the logits, from each row's own generator."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self._generators = generators

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = [
            torch.rand(scores.shape[1], generator=generator, dtype=torch.float64) for generator in self._generators
        ]
        gumbel = -torch.log(-torch.log(torch.stack(noise).clamp_(1e-300, 1 - 1e-16)))
        return scores.double() + gumbel.to(scores.device)


def _generator(seed: int, prompt: Sequence[int]) -> torch.Generator:
    """Of a question: its draws are its own wherever it stands."""
    digest = hashlib.blake2b(repr(list(prompt)).encode(), digest_size=7, key=str(seed).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


class _EndOfTurn(StoppingCriteria):
    """Ends the rows that begin the user's turn, and those that are at their limit."""

    def __init__(self, template: Template, width: int, limits: Sequence[int], heartbeat: Callable[[], None]) -> None:
        self._template = template
        self._width = width
        self._limits = torch.tensor(limits)
        self._heartbeat = heartbeat

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._heartbeat()
        length = input_ids.shape[1] - self._width
        over = self._limits <= length
        ids, words = self._template.next_turn
        for number, row in enumerate(input_ids[:, max(self._width, input_ids.shape[1] - TAIL) :].tolist()):
            if not over[number]:
                over[number] = row[-1] in ids or bool(words and any(word in self._decoded(row) for word in words))
        return over.to(input_ids.device)

    def _decoded(self, ids: list[int]) -> str:
        # Past transformers' own decode, which takes longer than a step of a small model.
        return str(self._template.tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True))


def _answer(template: Template, ids: list[int], limit: int, ends: set[int]) -> Answer:
    """From what was generated, padding behind it."""
    next_ids, words = template.next_turn
    ids = ids[:limit]
    ending: Ending = "Cut"
    for at, number in enumerate(ids):
        if number in ends or number in next_ids:
            ids, ending = ids[:at], "Stopped" if number in ends else "TookTheTurn"
            break
    control = {*template.hidden.values()}
    text = str(
        template.tokenizer.decode(
            [number for number in ids if number not in control],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
    )
    cut = min((at for word in words if (at := text.find(word)) >= 0), default=None)
    if cut is not None:
        text, ending = text[:cut], "TookTheTurn"
    elif ending == "Cut":
        text = text.rstrip("\ufffd")  # the limit fell into the middle of a character
    return Answer(template.clean_answer(text).strip(), len(ids), ending)
