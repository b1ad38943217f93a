"""The likeliest token: the first of the largest, whatever the size of the vocabulary, and no hit without a number."""

from __future__ import annotations

import math

import pytest
import torch

from workloads.models import likeliest


@pytest.mark.parametrize("size", [1, 7, 256, 511, 512, 513, 1000, 32001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_first_of_the_largest(size: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(size)
    logits = torch.randint(-3, 3, (64, size), generator=generator).to(dtype)  # nearly all of them ties
    expected = [row.index(max(row)) for row in logits.tolist()]
    assert likeliest.likeliest(logits).tolist() == expected


def test_the_last_logit_is_found_behind_the_last_whole_block() -> None:
    logits = torch.zeros(2, 1001)
    logits[0, 1000] = 1.0
    logits[1, 999] = 1.0
    assert likeliest.likeliest(logits).tolist() == [1000, 999]


def test_a_model_without_an_opinion_hits_only_the_first_token() -> None:
    logits, labels = torch.zeros(4, 600), torch.tensor([0, 1, 300, 599])
    assert likeliest.hits(logits, labels).tolist() == [True, False, False, False]


@pytest.mark.parametrize("size", [8, 600])
def test_what_is_no_number_is_no_hit(size: int) -> None:
    logits = torch.full((2, size), math.nan)
    logits[1] = 0.0
    logits[1, 5] = math.nan
    assert likeliest.hits(logits, torch.tensor([0, 5])).tolist() == [False, False]


def test_of_no_rows_there_is_none() -> None:
    """A process that has no token to foretell in a step."""
    assert likeliest.likeliest(torch.zeros(0, 600)).tolist() == []
