"""TensorBoard curves, written beside the checkpoints while training runs and copied into the output at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

NAMES = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "mean_token_accuracy": "train/mean_token_accuracy",
    "tokens_per_second": "train/tokens_per_second",
    "eval_loss": "validation/loss",
    "eval_perplexity": "validation/perplexity",
    "eval_bits_per_byte": "validation/bits_per_byte",
    "eval_mean_token_accuracy": "validation/mean_token_accuracy",
}
"""What is drawn, by its name in the Trainer's log."""


class TensorBoard(TrainerCallback):
    """Writes what is logged. A resumed run continues the curves: what an interrupted one drew past its checkpoint is purged."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=state.global_step + 1)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._writer is None:
            return
        logs: dict[str, float] = kwargs["logs"]
        for name, title in NAMES.items():
            if name in logs:
                self._writer.add_scalar(title, logs[name], state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._writer is not None:
            self._writer.flush()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._writer is not None:
            self._writer.close()
