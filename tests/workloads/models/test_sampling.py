"""How tokens are chosen: by the probabilities, by a seed, and by nobody else's text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from workloads.models.sampling import Controls, Sampler, choose

CPU = torch.device("cpu")


def sampler(prompt: list[int], **controls: Any) -> Sampler:
    settings = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "max_tokens": 8, **controls}
    return Sampler(Controls(**settings), prompt, CPU)


def test_draws_follow_the_probabilities() -> None:
    drawing = [sampler([1], temperature=1.0, seed=7)]
    scores = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log()
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[choose(drawing, scores)] += 1
    assert counts[3] == 0
    assert (counts[:3] / 4000).tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_the_penalty_is_that_of_transformers_for_answers_of_every_length() -> None:
    scores = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    texts = [[4, 5, 6], [7]]
    asked = [sampler(text[:1], repetition_penalty=1.7) for text in texts]
    for each, text in zip(asked, texts, strict=True):
        for token in text[1:]:
            each.note(token)
    expected = [
        int(RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([text]), scores[row : row + 1]).argmax())
        for row, text in enumerate(texts)
    ]
    assert choose(asked, scores).tolist() == expected


def test_a_share_of_nothing_leaves_the_likeliest() -> None:
    scores = torch.tensor([[0.0, 3.0, 2.9]])
    assert {int(choose([sampler([1], temperature=2.0, top_p=0, seed=seed)], scores)) for seed in range(20)} == {1}


def test_a_temperature_near_nothing_takes_the_likeliest() -> None:
    scores = torch.tensor([[0.0, 3.0, 2.9]])
    assert choose([sampler([1], temperature=1e-40, seed=1)], scores).tolist() == [1]
