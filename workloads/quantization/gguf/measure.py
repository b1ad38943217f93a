"""The written file measured as the original was: on the same rows, by llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from alpaca_operator.api.quantize import QuantizeSpec
from workloads.quantization.prepare import Prepared

if TYPE_CHECKING:
    from workloads.evaluation.likeness import Likeness, Reference
    from workloads.quantization.fidelity import ModelScores
    from workloads.quantization.gguf.llama_cpp import Runner


def longest(spec: QuantizeSpec, prepared: Prepared, positions: int) -> int:
    """Tokens of the longest row or answer."""
    from workloads.quantization import fidelity

    rows = prepared.rows.evaluation
    asked = fidelity.questions(rows, spec.evaluation.answers, positions)
    answers = [min(positions, len(question) + spec.evaluation.max_new_tokens) for question in asked]
    return max([*(len(row.ids) for row in rows), *answers])


def measure(
    spec: QuantizeSpec,
    prepared: Prepared,
    runner: Runner,
    reference: Reference,
    positions: int,
    heartbeat: Callable[[], None],
) -> tuple[ModelScores, Likeness]:
    """How the file foretells and answers, and how close it is to the original. ``positions``: of the model."""
    from workloads.quantization import fidelity

    rows = prepared.rows.evaluation
    score, likeness = reference.compare_logits(lambda ids, wanted: runner.logits(ids, wanted, heartbeat), rows)
    ended = []
    for question in fidelity.questions(rows, spec.evaluation.answers, positions):
        most = min(spec.evaluation.max_new_tokens, positions - len(question))
        ended.append(runner.ends(runner.answer(question, most, heartbeat)[-1]))
    return fidelity.ModelScores(score, len(ended), sum(ended) / len(ended) if ended else None), likeness
