"""Batches: which positions a loss is taken of, and that no row sees another, however they are put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workloads.data.collator import IGNORED, Collator
from workloads.models import libraries

libraries.quiet()

CLOSE = 2e-5
"""Float32 sums in another order."""


def sequence(*rows: tuple[list[int], list[int]]) -> dict[str, Any]:
    """Rows of (ids, labels), packed."""
    return {
        "input_ids": np.array([token for ids, _ in rows for token in ids]),
        "labels": np.array([label for _, labels in rows for label in labels]),
        "seq_lengths": [len(ids) for ids, _ in rows],
    }


ONE = ([5, 6, 7, 8], [IGNORED, IGNORED, 7, 8])
TWO = ([9, 10, 11], [IGNORED, 10, 11])


def test_a_batch_holds_only_the_tokens_that_are_trained_on() -> None:
    batch = Collator(pad=0)([sequence(ONE), sequence(TWO)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 10, 11, 0]]
    assert batch["logits_to_keep"].tolist() == [[False, True, True, False], [True, True, False, False]]
    assert batch["labels"].tolist() == [7, 8, 10, 11]
    assert batch["tokens"] == 7
    assert "attention_mask" not in batch
    assert "position_ids" not in batch


def test_packed_rows_start_at_position_0_and_predict_nothing_across_their_border() -> None:
    trained_start = ([9, 10, 11], [9, 10, 11])
    batch = Collator(pad=0)([sequence(ONE, trained_start), sequence(TWO)])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 0, 1, 2, 3]]
    assert batch["labels"].tolist() == [7, 8, 10, 11, 10, 11], "the first token of the second row is nobody's target"


def test_for_flash_attention_everything_is_one_sequence() -> None:
    batch = Collator(pad=0, flat=True)([sequence(ONE, TWO), sequence(TWO)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10, 11, 9, 10, 11]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 2]]
    assert batch["labels"].tolist() == [7, 8, 10, 11, 10, 11]


@pytest.fixture(scope="module")
def llama(shelf: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(shelf / "base", attn_implementation="sdpa").eval()


def logits(model: Any, batch: dict[str, Any]) -> Any:
    """What the model says at every trained position of a batch, in order."""
    import torch

    shown = {key: batch[key] for key in ("input_ids", "position_ids", "logits_to_keep") if key in batch}
    with torch.inference_mode():
        return model(**shown, use_cache=False).logits


def test_no_row_sees_another_row_of_its_sequence(llama: Any) -> None:
    import torch

    draw = np.random.default_rng(7)
    rows = [(ids := draw.integers(4, 200, length).tolist(), [IGNORED, *ids[1:]]) for length in (17, 3, 40, 9, 2, 30)]
    alone = [logits(llama, Collator(pad=0)([sequence(row)])) for row in rows]
    packed = logits(llama, Collator(pad=0)([sequence(*rows)]))
    batched = logits(llama, Collator(pad=0)([sequence(*rows[:3]), sequence(*rows[3:])]))
    flat = logits(llama, Collator(pad=0, flat=True)([sequence(*rows[:3]), sequence(*rows[3:])]))
    padded = logits(llama, Collator(pad=0)([sequence(row) for row in rows]))
    for other in (packed, batched, flat, padded):
        assert torch.allclose(torch.cat(alone), other, atol=CLOSE)
