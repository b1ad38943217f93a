"""A model is held against the original as it is, its output head included, and by how much its rows differ."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from workloads.data.conversations import Example
from workloads.errors import SpecError
from workloads.evaluation import perplexity
from workloads.evaluation.likeness import NOTHING, Likeness, Reference
from workloads.models import libraries

libraries.quiet()

ROWS = [
    Example(np.arange(4, 40 + 3 * number, dtype=np.int32), np.arange(36 + 3 * number) > 5, number)
    for number in range(3)
]


def silent() -> None:
    pass


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


@pytest.mark.parametrize("lost", [False, True], ids=["the same head", "the embedding in its place"])
def test_a_head_that_was_lost_shows(shelf: Path, tmp_path: Path, lost: bool) -> None:
    reference = Reference(tmp_path / "reference")
    reference.record(loaded(shelf / "base"), ROWS, 3, silent)
    other = loaded(shelf / "base")
    if lost:
        other.lm_head.weight.data.copy_(other.model.embed_tokens.weight.data)
    _, found = reference.compare(other, ROWS, 3, silent)
    if lost:
        assert found.agreement < 0.9
        assert found.divergence > 1e-4
    else:
        assert found.agreement == 1.0
        assert found.divergence == pytest.approx(0, abs=1e-9)


def test_rows_are_told_apart_and_a_comparison_goes_on_behind_those_it_has(shelf: Path, tmp_path: Path) -> None:
    """Against the two models' logits of each row by itself."""
    original, other = loaded(shelf / "base"), loaded(shelf / "base")
    generator = torch.Generator().manual_seed(3)
    other.lm_head.weight.data += 0.01 * torch.randn(other.lm_head.weight.shape, generator=generator)
    reference = Reference(tmp_path / "reference")
    before, _ = reference.record(original, ROWS, 3, silent)
    after, found = reference.compare(other, ROWS, 3, silent)
    rows = []
    for row in sorted(ROWS, key=lambda row: -len(row.ids)):
        ids = torch.from_numpy(row.ids).long()[None]
        with torch.inference_mode():
            then, now = (model(input_ids=ids).logits[0, 5:-1].log_softmax(-1).double() for model in (original, other))
        apart = (then.exp() * (then - now)).sum(-1)
        same = (then.argmax(-1) == now.argmax(-1)).sum()
        lost = (then - now).gather(-1, ids[0, 6:, None])
        rows.append(Likeness.of_row(len(apart), int(same), float(apart.sum()), float(lost.sum())))
    expected = sum(rows, NOTHING)
    assert (found.rows, found.tokens, found.same) == (expected.rows, expected.tokens, expected.same)
    assert 0 < found.same < found.tokens
    assert found.apart == pytest.approx(expected.apart, rel=1e-4)
    assert found.lost == pytest.approx(after.nats - before.nats, rel=1e-3, abs=1e-3)
    assert found.products == pytest.approx(expected.products, rel=1e-3)

    rest: list[Likeness] = []
    ordered = [*perplexity.in_order(ROWS, 256)]
    with reference.comparing(other, ROWS, passed=1) as beside:
        perplexity.score(other, ordered[1:], pad=3, heartbeat=silent)
        rest.append(beside.likeness)
    assert rest[0].tokens == sum(row.tokens for row in rows[1:])
    assert rest[0].apart == pytest.approx(sum(row.apart for row in rows[1:]), rel=1e-4)


def test_logits_that_are_more_than_the_head_makes_of_them_cannot_be_kept(shelf: Path, tmp_path: Path) -> None:
    model = loaded(shelf / "base")
    model.lm_head.register_forward_hook(lambda module, inputs, logits: 2 * logits)
    with (
        pytest.raises(SpecError, match=r"^spec\.models\[0\] changes its output head while it runs"),
        Reference(tmp_path / "reference").recording(model, "spec.models[0]"),
    ):
        perplexity.score(model, ROWS, pad=3)


def test_intervals_are_over_rows() -> None:
    """Against the ratio estimator written out (Cochran 1977, 6.4) with Student's 2.776 of four degrees of freedom."""
    rows = [(10, 9, 0.1, 0.2), (20, 17, 0.5, -0.1), (5, 5, 0.0, 0.05), (15, 10, 0.9, 0.6), (30, 28, 0.4, 0.0)]
    found = sum((Likeness.of_row(*row) for row in rows), NOTHING)
    total = sum(row[0] for row in rows)
    edges = found.intervals()
    for name, place, value in (("meanDivergence", 2, found.divergence), ("perplexityIncrease", 3, found.lost / total)):
        spread = sum((row[place] - value * row[0]) ** 2 for row in rows) / (len(rows) - 1)
        half = 2.776 * math.sqrt(len(rows) * spread) / total
        low, high = value - half, value + half
        if name == "perplexityIncrease":
            low, high = math.exp(low) - 1, math.exp(high) - 1
        assert (edges[name].low, edges[name].high) == pytest.approx(
            (max(low, 0) if place == 2 else low, high), rel=0.01
        )
    assert edges["tokenAgreement"].low < found.agreement == 69 / 80 < edges["tokenAgreement"].high < 1
    assert (edges["tokenAgreement"].count, edges["tokenAgreement"].unit) == (5, "rows")
    assert Likeness.of_row(4, 4, 0.0).intervals().keys() == {"tokenAgreement"}, "one row has no spread"
    assert math.isnan(NOTHING.agreement)
