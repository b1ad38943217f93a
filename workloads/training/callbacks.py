"""When to evaluate, save and stop, and how fast it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alpaca_operator.api.training import Loop
from workloads.runtime.runtime import Runtime
from workloads.training.resume_state import ResumeState


class TrainingLoop(Protocol):
    """What the callbacks use of the trainer that they are called by."""

    settings: Loop
    runtime: Runtime
    eval_dataset: Any
    resume_state: ResumeState
    throughput: ThroughputMeter
    evaluate_first: bool
    step_tokens: int
    """Unpadded tokens of the step that is being computed, in this process."""
    stopping: bool
    """A stop was asked for, in any of the processes: the run ends with this step."""

    def steps_in_pass(self, batches: int) -> int:
        """Optimizer steps of one pass over ``batches`` batches."""

    def continue_log_window(self) -> None:
        """The mean of the losses that are logged next goes on where the run before was."""

    def forget_universal(self) -> None:
        """What was made to load the checkpoint has been read."""

    def evaluate_start(self) -> None:
        """Evaluate before the first step."""

    def evaluate_late(self) -> None:
        """Make up for the evaluation that a stop had cut off."""

    def refuse_bad_loss(self) -> None:
        """Raises LossDiverged for a loss that is no number, before it reaches the weights."""

    def watch_weights(self) -> None:
        """Remember the weights that the run starts from."""

    def weights_moved(self) -> bool:
        """Whether a weight of this process has changed since."""

    def stopped_early(self) -> bool:
        """Whether the evaluations without gain have used up the patience."""


class EvalSaveStopCallback(TrainerCallback):
    """Decides at the end of each step, and counts the evaluations without gain for early stopping."""

    def __init__(self, trainer: TrainingLoop) -> None:
        self.trainer = trainer
        self.steps_per_epoch = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer = self.trainer
        self.steps_per_epoch = trainer.steps_in_pass(len(kwargs["train_dataloader"]))
        trainer.forget_universal()
        trainer.continue_log_window()
        trainer.watch_weights()
        trainer.runtime.progress.update(stage="Training", step=state.global_step, total_steps=state.max_steps)
        if trainer.runtime.distributed.is_main:
            trainer.runtime.attempts.train_from(state.global_step)
        if trainer.resume_state.evaluation_due:
            trainer.evaluate_late()
        elif trainer.evaluate_first and state.global_step == 0:
            trainer.evaluate_start()
        trainer.throughput.start()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.trainer.refuse_bad_loss()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        trainer, settings, step = self.trainer, self.trainer.settings, state.global_step
        tokens, stops, moved = trainer.runtime.distributed.all_reduce_sum(
            trainer.step_tokens, trainer.runtime.stop.requested, trainer.weights_moved()
        )
        trainer.resume_state.moved = moved > 0
        trainer.stopping = stopping = stops > 0
        seconds = trainer.throughput.add(int(tokens))
        if trainer.resume_state.seconds is not None:
            trainer.resume_state.seconds += seconds
        trainer.runtime.attempts.made(step)
        trainer.resume_state.tokens += int(tokens)
        trainer.step_tokens = 0
        if not control.should_log:
            trainer.runtime.progress.update(step=step, total_steps=state.max_steps)
        last = step >= state.max_steps
        due = step % (settings.eval_steps or self.steps_per_epoch) == 0 or last
        if due and trainer.eval_dataset is not None:
            control.should_evaluate = not stopping
            trainer.resume_state.evaluation_due = stopping
        control.should_save = step % settings.save_steps == 0 or last or stopping
        control.should_training_stop = control.should_training_stop or last or stopping
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        trainer, resumed = self.trainer, self.trainer.resume_state
        if trainer.settings.early_stopping_patience is None or state.global_step == 0:
            return control
        loss = kwargs["metrics"]["eval_loss"]
        if resumed.best_loss is None or loss < resumed.best_loss:
            resumed.best_loss, resumed.best_step, resumed.evaluations_without_gain = loss, state.global_step, 0
            control.should_save = True
            return control
        resumed.evaluations_without_gain += 1
        if trainer.stopped_early():
            control.should_training_stop = True
            control.should_save = True
            trainer.runtime.progress.log(
                f"early stop at step {state.global_step}: {resumed.evaluations_without_gain} evaluations without a better loss; the best "
                f"is {resumed.best_loss:.4f} at step {resumed.best_step}"
            )
        return control


class ThroughputMeter:
    """Unpadded tokens a second of pure training: evaluations and saves are not counted."""

    def __init__(self) -> None:
        self._tokens = 0
        self._seconds = 0.0
        self._since = time.perf_counter()
        self.total_tokens = 0
        self.total_seconds = 0.0

    def start(self) -> None:
        """The next step begins now."""
        self._since = time.perf_counter()

    def add(self, tokens: int) -> float:
        """A step with ``tokens`` ended now; returns its seconds."""
        now = time.perf_counter()
        seconds = now - self._since
        self._tokens, self.total_tokens = self._tokens + tokens, self.total_tokens + tokens
        self._seconds, self.total_seconds = self._seconds + seconds, self.total_seconds + seconds
        self._since = now
        return seconds

    def read(self) -> float:
        """Tokens a second since the last reading."""
        throughput = self._tokens / self._seconds if self._seconds else 0.0
        self._tokens, self._seconds = 0, 0.0
        return throughput

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time that the block takes is not counted."""
        yield
        self.start()
