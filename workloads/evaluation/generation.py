"""Answers of a model to many questions, in batches: the same as one question at a time would give, and as the chat gives by the same seed.

Prompts are padded on the left, and masked there. Every question has a sampler of its own, seeded anew, so that an answer depends on
neither its neighbours nor the size of the batch.
"""

from __future__ import annotations

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
)

from alpaca_operator.api.generation import Decoding
from workloads.data import tokenize
from workloads.models import dynamic_positions
from workloads.models.model_request import context_length
from workloads.models.sampling import Controls, Sampler, choose

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from workloads.data.chat_templates.template import Template

Ending = Literal["Stopped", "TookTheTurn", "Cut", "Withheld"]
"""The model wrote an end mark; it went on with the user's part; it reached the limit; whoever serves it kept the rest back."""
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
    """Each prompt's number with its answer, as they come: prompts of like lengths are answered together, the longest first. Where positions
    depend on the length of the text, each is answered alone.

    ``prompts`` are ids that `Template.prompt` gave, each shorter than the model's positions. An answer is at most
    ``decoding.max_new_tokens`` long, less where positions end. ``heartbeat`` is called with every token, and may raise, to stop.
    """
    alone = dynamic_positions.changes_with_length(model)
    size = 1 if alone else batch_size
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    for first in range(0, len(order), size):
        chosen = order[first : first + size]
        if alone:
            dynamic_positions.start_anew(model)
        batch = [prompts[number] for number in chosen]
        yield from zip(chosen, _batch(model, template, batch, decoding, seed, heartbeat), strict=True)


def _batch(
    model: Any,
    template: Template,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    seed: int,
    heartbeat: Callable[[], None],
) -> list[Answer]:
    pad = template.tokenizer.pad_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    context = context_length(model.config.to_dict())
    limits = [min(decoding.max_new_tokens, context - len(prompt)) for prompt in prompts]
    samplers = [
        Sampler(_controls(decoding, limit, seed), prompt, model.device)
        for prompt, limit in zip(prompts, limits, strict=True)
    ]
    ends = list(dict.fromkeys([*template.stop_ids, *_own_ends(model)]))
    turn = _EndOfTurn(template, width, limits, heartbeat)
    with torch.inference_mode(), _configured(model, _config(max(limits), ends, pad)):
        written = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            logits_processor=LogitsProcessorList([_Choosing(samplers, tokenize.rows_of(template.tokenizer))]),
            stopping_criteria=StoppingCriteriaList([turn]),
        )
    return [
        _answer(template, row.tolist(), length, {*ends})
        for row, length in zip(written[:, width:], turn.lengths, strict=True)
    ]


def _controls(decoding: Decoding, longest: int, seed: int) -> Controls:
    return Controls(
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        top_k=decoding.top_k,
        repetition_penalty=decoding.repetition_penalty,
        max_tokens=longest,
        seed=seed,
    )


def _own_ends(model: Any) -> list[int]:
    """End marks that the model's generation_config.json names."""
    own = model.generation_config.eos_token_id if model.generation_config is not None else None
    return [] if own is None else [own] if isinstance(own, int) else list(own)


def _config(longest: int, ends: list[int], pad: int) -> GenerationConfig:
    """Greedy for transformers: what is drawn is drawn by `_Choosing`."""
    return GenerationConfig(max_new_tokens=longest, do_sample=False, eos_token_id=ends, pad_token_id=pad)


@contextmanager
def _configured(model: Any, config: GenerationConfig) -> Iterator[None]:
    """`generate` fills whatever it is not told from the model's own settings, a repetition penalty for one."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


class _Choosing(LogitsProcessor):
    """Chooses as the chat does, each row by a sampler of its own, and leaves `generate` nothing else to take."""

    def __init__(self, samplers: Sequence[Sampler], vocabulary: int) -> None:
        """``vocabulary``: ids that stand for something; a head may have more rows."""
        self._samplers = samplers
        self._vocabulary = vocabulary
        self._begun = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._begun:
            for sampler, token in zip(self._samplers, input_ids[:, -1].tolist(), strict=True):
                sampler.note(token)
        self._begun = True
        scores[:, self._vocabulary :] = float("-inf")
        chosen = choose(self._samplers, scores.nan_to_num())
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen[:, None], 0.0)


class _EndOfTurn(StoppingCriteria):
    """Ends the rows that begin the user's turn, and those that are at their limit."""

    def __init__(self, template: Template, width: int, limits: Sequence[int], heartbeat: Callable[[], None]) -> None:
        self._template = template
        self._width = width
        self.lengths = [*limits]
        """Tokens after which each row has ended, at the latest."""
        self._heartbeat = heartbeat

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._heartbeat()
        length = input_ids.shape[1] - self._width
        ids, words = self._template.next_turn
        for number, row in enumerate(input_ids[:, max(self._width, input_ids.shape[1] - TAIL) :].tolist()):
            if length < self.lengths[number] and (
                row[-1] in ids or (words and any(word in self._decoded(row) for word in words))
            ):
                self.lengths[number] = length
        return torch.tensor([length >= end for end in self.lengths], device=input_ids.device)

    def _decoded(self, ids: list[int]) -> str:
        # Past transformers' own decode, which takes longer than a step of a small model.
        return str(self._template.tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True))


def _answer(template: Template, ids: list[int], length: int, ends: set[int]) -> Answer:
    """From what was generated: so many tokens, and padding behind them."""
    next_ids, words = template.next_turn
    ids = ids[:length]
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
