"""What a training tells in numbers: its plan before the first step, and at the end its goodput and its metrics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from alpaca_operator.api.contract import Goodput
from workloads.runtime.runtime import Metrics
from workloads.storage import attempts
from workloads.training import extent
from workloads.training.resume_state import processes_of

if TYPE_CHECKING:
    from workloads.training.trainer import Trainer

FEW_STEPS = 20
"""Below this many optimizer steps a run is told to be short: packing makes it easy to train less than one meant to."""
EVALUATED = {
    "eval_loss": "evalLoss",
    "eval_perplexity": "perplexity",
    "eval_bits_per_byte": "bitsPerByte",
    "eval_mean_token_accuracy": "meanTokenAccuracy",
}
"""What an evaluation logs, and how the metrics of a run call it."""


def tell_plan(trainer: Trainer, sequences: int) -> None:
    """What is going to happen with so many sequences of training data."""
    settings, runtime = trainer.settings, trainer.runtime
    log = runtime.progress.log
    total = extent.optimizer_steps(settings, sequences, runtime.scale.asked)
    sizes = [  # under ZeRO-3 the tensors themselves are empty between uses
        (getattr(weight, "ds_numel", weight.numel()), weight.requires_grad) for weight in trainer.model.parameters()
    ]
    trained, everything = sum(size for size, moves in sizes if moves), sum(size for size, _ in sizes)
    log(f"{trained:,} of {everything:,} weights are trained ({100 * trained / everything:.2f} %)")
    if total < FEW_STEPS:
        per_step = settings.batch_size_per_device * settings.gradient_accumulation * runtime.scale.asked
        log(
            f"warning: {total} optimizer steps in all ({per_step} sequences each): for more, lower training.gradientAccumulation "
            f"(now {settings.gradient_accumulation}) or raise training.epochs (now {settings.epochs:g})"
        )
    if told := runtime.scale.told(settings.gradient_accumulation):
        log(told)
    if (checkpoint := trainer.checkpoint) is not None:
        made_by = processes_of(checkpoint)
        others = "" if made_by == runtime.distributed.count else f", which {made_by} process(es) made"
        log(f"going on from {checkpoint.parent.name}/{checkpoint.name}{others}")


def goodput(trainer: Trainer) -> Goodput | None:
    """How much of what the job has done is in these weights; known to the first process."""
    if not trainer.runtime.distributed.is_main:
        return None
    return attempts.goodput(trainer.runtime.attempts.all(), trainer.state.global_step, trainer.resume_state.seconds)


def tell_goodput(trainer: Trainer) -> None:
    """In words, at the end."""
    told, made = goodput(trainer), trainer.runtime.attempts.all()
    if told is not None and made:
        steps = sum(one.last_step - one.first_step for one in made)
        time = "" if told.time is None else f", and {told.time:.1%} of the time since the first began went into them"
        runs = "1 run" if len(made) == 1 else f"{len(made)} runs"
        trainer.runtime.progress.log(f"goodput: {told.steps:.1%} of the {steps:,} steps of {runs} count{time}")


def metrics(trainer: Trainer) -> Metrics:
    """The numbers of the weights that are published: those of the best evaluation where early stopping chose it."""
    resumed, history = trainer.resume_state, trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    found: Metrics = {
        "steps": float(trainer.state.global_step),
        "epochs": round(float(trainer.state.epoch or 0.0), 4),
        "tokens": float(resumed.tokens),
        "trainLoss": sum(losses) / len(losses) if losses else None,
        "finalLoss": losses[-1] if losses else None,
    }
    if (told := goodput(trainer)) is not None:
        found |= {"goodputSteps": told.steps, "goodputTime": told.time}
    evaluations = [entry for entry in history if "eval_loss" in entry]
    if evaluations:
        best = resumed.best_step if trainer.settings.early_stopping_patience is not None else None
        chosen = next((entry for entry in evaluations if entry["step"] == best), evaluations[-1])
        found |= {name: chosen[logged] for logged, name in EVALUATED.items() if logged in chosen}
        found |= {f"{EVALUATED[logged]}Before": value for logged, value in (resumed.before or {}).items()}
        if best is not None:
            found["bestStep"] = float(best)
    return {name: value if value is None or math.isfinite(value) else None for name, value in found.items()}
