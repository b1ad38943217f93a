"""A training that learns nothing, or falls apart: what is refused, and what the user reads then."""

from __future__ import annotations

import math

from alpaca_operator.api.training import Loop
from workloads.errors import LossDiverged, SpecError


def check_step(loss: float, wrong: float, targets: float, step: int, learning_rate: float, settings: Loop) -> None:
    """Raises LossDiverged for the loss of ``step`` that is not a number, and for one that is exactly 0 without every token foretold:
    nothing is learnt from either. An easy set is learnt until float32 itself says 0.

    ``targets``: how many tokens the step was to foretell; ``wrong``: those of them that it did not.
    """
    if not math.isfinite(loss) and step == 1:
        raise LossDiverged(
            f"the loss is {loss} before anything was learnt: the base model's weights hold values that are no numbers, or overflow: "
            f"check the files of spec.model, or set training.precision (now {settings.precision}) to fp32"
        )
    if not math.isfinite(loss):
        raise LossDiverged(
            f"the loss became {loss} at step {step} (learning rate {learning_rate:.3g}): lower training.learningRate "
            f"(now {settings.learning_rate:g}) by a factor of 3 to 10, or raise training.warmupRatio "
            f"(now {settings.warmup_ratio:g})"
        )
    if loss == 0.0 and (not targets or wrong):
        raise LossDiverged(
            f"the loss is exactly 0 at step {step} and {wrong:.0f} of {targets:.0f} tokens are foretold wrongly: nothing is being "
            "learnt. Set training.precision to bf16 or fp32, and make sure that the answers in the data are not empty"
        )


def check_gradient(norm: float, step: int, settings: Loop) -> None:
    """Raises LossDiverged for a gradient that is no number."""
    if not math.isfinite(norm):
        raise LossDiverged(
            f"the gradient became {norm} at step {step}: lower training.learningRate (now {settings.learning_rate:g}), or set "
            f"training.maxGradNorm (now {settings.max_grad_norm:g}) to 1"
        )


def check_evaluation(loss: float, step: int, settings: Loop) -> None:
    """Raises LossDiverged for a validation loss that is no number."""
    if not math.isfinite(loss):
        raise LossDiverged(
            f"the validation loss became {loss} at step {step}: lower training.learningRate (now {settings.learning_rate:g}) by a "
            "factor of 3 to 10"
        )


def check_moved(moved: bool, steps: int, settings: Loop) -> None:
    """Raises SpecError after a training that has changed nothing: what it would publish is what it started from."""
    if not moved:
        raise SpecError(
            f"after {steps} optimizer steps every weight is what it was before: nothing was learnt, and nothing is published. "
            f"Raise training.learningRate (now {settings.learning_rate:g}), or set training.precision (now {settings.precision}) to "
            "fp32, where smaller steps count"
        )
