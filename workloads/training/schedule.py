"""The learning rate over the steps of a run: the library's schedules, without the points at which they are 0."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainingArguments
from transformers.optimization import get_scheduler


def of(settings: TrainingArguments, optimizer: Optimizer, steps: int) -> LambdaLR:
    """The schedule of ``settings`` for a run of ``steps`` optimizer steps, above 0 in each of them.

    A warm-up of the library's begins at 0. Its run is one point longer here and that point is left out: the last step of the warm-up
    is at the peak, and so is the only step of a run of one. At the other end 0 would come one step after the last.
    """
    warmup = settings.get_warmup_steps(steps)
    skipped = 1 if warmup else 0
    particulars: Any = settings.lr_scheduler_kwargs  # a dict by now: a string is for the command line
    longer: Any = get_scheduler(
        settings.lr_scheduler_type,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=steps + skipped,
        scheduler_specific_kwargs=particulars,
    )

    def later(share: Any) -> Any:
        return lambda step: share(step + skipped)

    return LambdaLR(optimizer, [later(share) for share in longer.lr_lambdas])
