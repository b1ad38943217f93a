"""How many steps a training makes, and how much it is going to write: known before the first step."""

from __future__ import annotations

import math

from alpaca_operator.api.training import Loop
from workloads.training.auto import Policy
from workloads.training.memory_estimate import Sizes
from workloads.training.method import Method

WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a value."""


def optimizer_steps(settings: Loop, sequences: int, processes: int) -> int:
    """Of the whole run, over so many training sequences."""
    batches = math.ceil(sequences / settings.batch_size_per_device / processes)
    per_epoch = math.ceil(batches / settings.gradient_accumulation)
    return settings.max_steps or math.ceil(per_epoch * settings.epochs)


def checkpoints_at_once(settings: Loop, steps: int) -> int:
    """The most that lie on disk together: those that are kept, the one that is being written and, with early stopping, the best."""
    if settings.early_stopping_patience is not None:
        return settings.keep_checkpoints + 2
    return min(settings.keep_checkpoints + 1, math.ceil(steps / settings.save_steps))


def checkpoint_bytes(how: Method, sizes: Sizes, policy: Policy) -> int:
    """Weights that move, and the optimizer's two moments of each; DeepSpeed saves the weights once more, and its float32 copies."""
    width = WIDTH[policy.weights] if how.trains == "Everything" else 4
    if policy.parallel != "None":
        return sizes.trainable * (width + width + 4 + 8)
    moments = 2 if "8bit" in policy.optimizer else 0 if policy.optimizer == "adafactor" else 8
    return sizes.trainable * (width + moments)


def result_bytes(how: Method, sizes: Sizes, policy: Policy, merged_as: str | None = None) -> int:
    """What is published. With ``merged_as``, the dtype of a merged model, also the adapter that is published before it and what the
    model is made from."""
    adapter = 4 * sizes.trainable
    if merged_as is not None:
        return sizes.parameters * WIDTH[merged_as] + 3 * adapter
    return adapter if how.trains == "Adapter" else sizes.parameters * WIDTH[policy.weights]
