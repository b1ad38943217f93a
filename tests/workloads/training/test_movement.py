"""A single bit of a single trained weight is a movement; what is frozen is not looked at."""

from __future__ import annotations

import pytest
import torch

from workloads.training import movement


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_smallest_change_of_one_element_is_seen(dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(64, 64).to(dtype)
    before = movement.bit_sums(layer)
    assert movement.bit_sums(layer) == before
    with torch.no_grad():
        layer.weight[5, 7] = (
            torch.nextafter(layer.weight[5, 7].float(), torch.tensor(9.0)) if dtype == torch.float32 else 0.5
        )
    after = movement.bit_sums(layer)
    assert [a != b for a, b in zip(before, after, strict=True)] == [True, False]


def test_a_frozen_weight_may_do_what_it_likes() -> None:
    layer = torch.nn.Linear(4, 4)
    layer.weight.requires_grad = False
    before = movement.bit_sums(layer)
    with torch.no_grad():
        layer.weight += 1
    assert movement.bit_sums(layer) == before


def test_under_zero_3_the_part_that_this_process_holds_is_looked_at() -> None:
    layer = torch.nn.Linear(4, 4, bias=False)
    layer.weight.ds_tensor = torch.zeros(8)  # type: ignore[attr-defined]
    before = movement.bit_sums(layer)
    layer.weight.ds_tensor[3] = 1e-30  # type: ignore[attr-defined]
    assert movement.bit_sums(layer) != before


def test_a_model_with_nothing_to_train_has_no_sums() -> None:
    assert movement.bit_sums(torch.nn.Module()) == []
