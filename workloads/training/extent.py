"""How many steps a training makes, and how much it is going to write: known before the first step."""

from __future__ import annotations

import math

from alpaca_operator.api.training import Loop
from workloads.models.inspect import SAVED_AS
from workloads.training.auto import Policy
from workloads.training.memory_estimate import Sizes
from workloads.training.method import Method


def optimizer_steps(settings: Loop, sequences: int, processes: int) -> int:
    """Of the whole run, over so many training sequences; ``processes`` are those that were asked for."""
    batches = math.ceil(sequences / settings.batch_size_per_device / processes)
    per_epoch = math.ceil(batches / settings.gradient_accumulation)
    return settings.max_steps or math.ceil(per_epoch * settings.epochs)


def epochs(settings: Loop, sequences: int, processes: int) -> float:
    """How often the whole run goes over so many training sequences."""
    if settings.max_steps is None:
        return settings.epochs
    per_step = settings.batch_size_per_device * settings.gradient_accumulation * processes
    return settings.max_steps * per_step / sequences


def checkpoints_at_once(settings: Loop, steps: int) -> int:
    """The most that lie on disk together: those that are kept, the one that is being written and, with early stopping, the best."""
    if settings.early_stopping_patience is not None:
        return settings.keep_checkpoints + 2
    return min(settings.keep_checkpoints + 1, math.ceil(steps / settings.save_steps))


def checkpoint_bytes(how: Method, sizes: Sizes, policy: Policy) -> int:
    """Weights that move, and the optimizer's two moments of each; DeepSpeed saves the weights once more, and its float32 copies."""
    width = SAVED_AS[policy.weights] if how.trains == "Everything" else 4
    if policy.parallel != "None":
        return sizes.trainable * (width + width + 4 + 8)
    moments = 2 if "8bit" in policy.optimizer else 0 if policy.optimizer == "adafactor" else 8
    return sizes.trainable * (width + moments)


def result_bytes(how: Method, sizes: Sizes, policy: Policy, dtype: str, *, merged: bool) -> int:
    """What is published, and what lies beside it until it is: of a ``merged`` model the adapter that is published before it, and the one
    that it is made from; of a model that was trained in another type than ``dtype``, its weights as they were trained."""
    adapter, whole = 4 * sizes.trainable, SAVED_AS[dtype] * sizes.parameters
    if merged:
        return whole + 3 * adapter
    if how.trains == "Adapter":
        return adapter
    return whole + (SAVED_AS[policy.weights] * sizes.parameters if policy.weights != dtype else 0)
