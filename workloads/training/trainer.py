"""The training loop: transformers' Trainer, with our batches, our checkpoints and a resume that is exact.

What differs from the plain Trainer, and why:

- Logits are computed only where a token is trained on (`logits_to_keep`): prompts cost no output head and no loss. The losses
  are the same.
- Rows are padded on the right and no attention mask is passed: under causal attention nothing before the padding sees it, and
  sdpa keeps its fast causal path. Rows that were packed into one sequence are kept apart by their positions.
- Checkpoints go through `Checkpoints` (flushed, digested, renamed), and hold besides the Trainer's own state what an exact resume
  needs: a half-finished logging window, the best evaluation so far, and an evaluation that a stop cut short.
- The evaluation's loss is weighted by tokens, not by batches, and leaves the random state as it found it.
- Several processes see each row once (`data/samplers.py`), stop at the same step, and tell numbers of all their tokens together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import IterableDataset, SequentialSampler
from transformers import PrinterCallback, TrainerState, set_seed

from alpaca_operator.api.training import Loop
from workloads.data.samplers import PaddedDataset, PadToMultipleSampler
from workloads.errors import Interrupted
from workloads.models import likeliest
from workloads.runtime.runtime import Runtime
from workloads.system import atomic
from workloads.training import divergence, figures, movement, reshard, schedule, trained_weights
from workloads.training.callbacks import EvalSaveStopCallback, ThroughputMeter
from workloads.training.resume_state import ResumeState, processes_of

FLASH = ("flash_attention_2", "flash_attention_3")


class Trainer(transformers.Trainer):
    """transformers' Trainer with the differences that the module's docstring lists."""

    model: Any
    model_wrapped: Any
    """A transformers model, or the peft model around one; and that with DistributedDataParallel or DeepSpeed around it."""

    def __init__(
        self,
        runtime: Runtime,
        settings: Loop,
        checkpoint: Path | None,
        token_bytes: torch.Tensor | None = None,
        evaluate_first: bool = False,
        **kwargs: Any,
    ) -> None:
        """``token_bytes``: bytes of text that each token stands for; given, evaluations tell bits per byte. With ``evaluate_first``
        the metrics tell how the model did before the first step, too."""
        self.runtime = runtime
        if runtime.distributed.count > 1:
            for name in ("train_dataset", "eval_dataset"):
                if kwargs.get(name) is not None and not isinstance(kwargs[name], IterableDataset):
                    kwargs[name] = PaddedDataset(kwargs[name], kwargs["data_collator"].pad)
        super().__init__(**kwargs)
        self.remove_callback(PrinterCallback)
        self.settings = settings
        self.checkpoint = checkpoint
        self.resume_state = ResumeState.read(checkpoint, runtime.distributed) if checkpoint else ResumeState()
        self.add_callback(EvalSaveStopCallback(self))
        self.throughput = ThroughputMeter()
        self._step_loss = torch.zeros((), device=self.args.device)
        self._correct = torch.zeros((), dtype=torch.long, device=self.args.device)
        self._step_correct = torch.zeros((), dtype=torch.long, device=self.args.device)
        self._step_targets = 0
        self.step_tokens = 0
        self._weights_from: Path | None = None
        self._token_bytes = None if token_bytes is None else token_bytes.to(self.args.device)
        self._eval_bytes = 0
        self._start: list[int] | None = None
        self._universal: Path | None = None
        """The checkpoint in DeepSpeed's universal form, until it is read."""
        self.evaluate_first = evaluate_first and self.eval_dataset is not None
        self.stopping = False
        """A stop was requested, and every process knows it."""

    # ---- the rows ----

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler: Any = super()._get_train_sampler(train_dataset)
        if sampler is None or self.runtime.distributed.count == 1:
            return sampler
        # What accelerate makes of the parent's sampler in a single process, so that the order is the same.
        shuffled = SeedableRandomSampler(data_source=sampler.data_source, data_seed=self.args.data_seed)
        rows = PadToMultipleSampler(shuffled, self.runtime.distributed.count * self.args.train_batch_size)
        if self.checkpoint is not None:
            # The loader that skips what was seen of a pass does not tell this sampler which pass it is.
            batches = len(rows) // (self.runtime.distributed.count * self.args.train_batch_size)
            rows.set_epoch(_saved_state(self.checkpoint).global_step // self.steps_in_pass(batches))
        return rows

    def steps_in_pass(self, batches: int) -> int:
        """Optimizer steps in a pass of so many batches for each process; the last may have fewer than the others."""
        return max(1, math.ceil(batches / self.args.gradient_accumulation_steps))

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        if self.runtime.distributed.count == 1:
            return super()._get_eval_sampler(eval_dataset)
        return PadToMultipleSampler(
            SequentialSampler(eval_dataset), self.runtime.distributed.count * self.args.eval_batch_size
        )

    # ---- the step ----

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As the parent's, without steps at a learning rate of 0."""
        if self.lr_scheduler is None:
            used: Any = optimizer or self.optimizer
            self.lr_scheduler = schedule.of(self.args, used, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """As the parent's, keeping the sum that `refuse_bad_loss` looks at before the optimizer moves a weight."""
        self.step_tokens += inputs.pop("tokens")
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_loss += loss
        self.runtime.progress.heartbeat()
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As the parent's; counts on the way how many of the trained tokens the model guessed, and sums the loss of an evaluation."""
        inputs.pop("tokens", None)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        labels = inputs["labels"]
        with torch.no_grad():
            logits = outputs.logits.detach()
            correct = likeliest.hits(logits, labels).sum()
            self._correct += correct
        self.resume_state.targets += labels.numel()
        if model.training:
            self._step_correct += correct
            self._step_targets += labels.numel()
        else:
            # The parent divides by the tokens of all processes together and multiplies by their number: right for averaged gradients.
            self._eval_loss += float(loss) * float(num_items_in_batch) / self.runtime.distributed.count
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0: the parent walks over all parameters for every batch, for a number that nobody reads."""
        return 0

    def refuse_bad_loss(self) -> None:
        """Raises LossDiverged for a loss from which nothing is learnt."""
        loss, correct, targets = self.runtime.distributed.all_reduce_sum(
            float(self._step_loss), int(self._step_correct), self._step_targets
        )
        self._step_loss.zero_()
        self._step_correct.zero_()
        self._step_targets = 0
        step = self.state.global_step + 1
        divergence.check_step(loss, targets - correct, targets, step, self._get_learning_rate(), self.settings)

    def watch_weights(self) -> None:
        """Remember the weights as they are, until one of them has moved."""
        if not self.resume_state.moved:
            self._start = movement.bit_sums(self.model)

    def weights_moved(self) -> bool:
        """Whether one that this process holds is another than when the run began, or a step before has found so."""
        return self.resume_state.moved or movement.bit_sums(self.model) != self._start

    # ---- evaluation ----

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As the parent's, from the same random state to the same random state. A stop request ends it early; the resumed run
        evaluates then."""
        self.runtime.progress.update(stage="Evaluating")
        kept = self.resume_state.targets, self._correct.clone()
        try:
            with _same_random_state():
                metrics = super().evaluate(*args, **kwargs)
            self.resume_state.evaluation_due = False
            return metrics
        except _StopEvaluating:
            self.resume_state.evaluation_due = self.stopping = True
            self.control.should_evaluate = False
            self.control.should_save = self.control.should_training_stop = True
            return {}
        finally:
            self.resume_state.targets, self._correct = kept
            self.runtime.progress.update(stage="Training")

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As the parent's, with loss, perplexity and accuracy over all tokens instead of the mean over batches."""
        self._eval_loss, self._eval_bytes, self.resume_state.targets = 0.0, 0, 0
        self._correct.zero_()
        output: Any = super().evaluation_loop(*args, **kwargs)
        loss_sum, count, correct, size = self.runtime.distributed.all_reduce_sum(
            self._eval_loss, self.resume_state.targets, int(self._correct), self._eval_bytes
        )
        loss = loss_sum / max(count, 1)
        divergence.check_evaluation(loss, self.state.global_step, self.settings)
        output.metrics["eval_loss"] = loss
        if size:
            output.metrics["eval_bits_per_byte"] = loss_sum / math.log(2) / size
        output.metrics["eval_perplexity"] = math.exp(loss) if loss < 700 else math.inf
        output.metrics["eval_mean_token_accuracy"] = correct / max(count, 1)
        return output

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As the parent's, counting the bytes that the batch stands for, unless a stop was requested."""
        if self.runtime.distributed.any(self.runtime.stop.requested):
            raise _StopEvaluating
        self.runtime.progress.heartbeat()
        loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
        if self._token_bytes is not None:
            self._eval_bytes += int(self._token_bytes[inputs["labels"]].sum())
        return loss, logits, labels

    # ---- telling ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the parent's; a training step's line gets token accuracy and speed, and every line reaches the user."""
        training = "loss" in logs
        if training:
            correct, targets = self.runtime.distributed.all_reduce_sum(
                self.resume_state.correct + int(self._correct), self.resume_state.targets
            )
            logs["mean_token_accuracy"] = correct / max(targets, 1)
            logs["tokens_per_second"] = self.throughput.read()
            self.resume_state.correct, self.resume_state.targets = 0, 0
            self._correct.zero_()
            if "grad_norm" in logs and not self.args.fp16:
                divergence.check_gradient(logs["grad_norm"], self.state.global_step, self.settings)
        super().log(logs, start_time)
        if training:
            self.runtime.progress.update(
                log=True,
                stage="Training",
                step=self.state.global_step,
                total_steps=self.state.max_steps,
                epoch=round(self.state.epoch or 0.0, 4),
                loss=logs["loss"],
                learning_rate=logs["learning_rate"],
                grad_norm=logs.get("grad_norm"),
                tokens_per_second=round(logs["tokens_per_second"], 1),
                goodput=figures.goodput(self),
            )
        elif "eval_loss" in logs:
            self.runtime.progress.update(log=True, stage="Evaluating", eval_loss=logs["eval_loss"])

    # ---- checkpoints ----

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As the parent's, into a folder that becomes a checkpoint only when it is whole."""
        checkpoints, distributed, step = self.runtime.checkpoints, self.runtime.distributed, self.state.global_step
        with self.throughput.paused():
            self.runtime.progress.update(stage="Saving")
            self.resume_state.last_logged = self._globalstep_last_logged
            if self.resume_state.best_step == step:
                self.resume_state.best_folder = f"{checkpoints.own.name}/checkpoint-{step}"
            windows = distributed.all_gather_object(
                {
                    "loss_sum": float(self._tr_loss),
                    "correct": self.resume_state.correct + int(self._correct),
                    "targets": self.resume_state.targets,
                }
            )
            with checkpoints.write(step) if distributed.is_main else checkpoints.write_part(step) as folder:
                distributed.barrier()  # now the folder is there
                self._save_trainable(folder)
                self._save_optimizer_and_scheduler(str(folder))
                self._save_rng_state(str(folder))
                if distributed.is_main:
                    self._save_scaler(str(folder))
                    self.runtime.attempts.flush()
                    self.state.save_to_json(str(folder / "trainer_state.json"))
                    self.resume_state.write(folder, windows)
                distributed.barrier()  # now everybody's part lies in it
            distributed.barrier()  # and now it is a checkpoint
            if distributed.is_main:
                best = self.best_checkpoint()
                checkpoints.prune(self.settings.keep_checkpoints, protect=[best] if best else [])
            self.runtime.progress.update(stage="Training")

    def _save_trainable(self, folder: Path) -> None:
        """The weights that a resumed run cannot have from the base."""
        part = None if self.is_deepspeed_enabled else trained_weights.trained_alone(self.model)
        if part is None:
            self.save_model(str(folder), _internal_call=True)
        elif self.args.should_save:
            trained_weights.save_part(part, folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The weights alone: of an adapter only what is trained."""
        if self.args.should_save:
            trained_weights.save(self.model, Path(output_dir or str(self.args.output_dir)), state_dict)

    def best_checkpoint(self) -> Path | None:
        """The checkpoint of the best evaluation, once there is one."""
        return (
            self.runtime.checkpoints.own.parent / self.resume_state.best_folder
            if self.resume_state.best_folder
            else None
        )

    def continue_log_window(self) -> None:
        """Put back the half-finished logging window that the checkpoint was saved in."""
        self._tr_loss += self.resume_state.loss_sum
        self._globalstep_last_logged = self.resume_state.last_logged

    def stopped_early(self) -> bool:
        """Whether early stopping has spoken, in this run or in the one that is resumed."""
        patience = self.settings.early_stopping_patience
        return patience is not None and self.resume_state.evaluations_without_gain >= patience

    def fit(self) -> None:
        """Train to the end, from the checkpoint where there is one. Returns early when a stop was requested."""
        self._train_to_the_end()
        self.stopping = self.stopping or self.runtime.distributed.any(self.runtime.stop.requested)

    def _train_to_the_end(self) -> None:
        if self.checkpoint is None:
            self.train()
            return
        saved = _saved_state(self.checkpoint)
        if (saved.global_step >= saved.max_steps or self.stopped_early()) and not self.resume_state.evaluation_due:
            # The steps were all made when the run was stopped; the parent would make one more.
            self._load_weights(self.checkpoint)
            self.state = saved
            return
        with suppress(_NoStepLeft):
            self.train(resume_from_checkpoint=str(self._cut_for_these_processes(self.checkpoint)))

    def _cut_for_these_processes(self, checkpoint: Path) -> Path:
        """The checkpoint as DeepSpeed loads it here: where another number of processes made it, in the form that fits all, until it is read."""
        distributed, checkpoints = self.runtime.distributed, self.runtime.checkpoints
        if not self.is_deepspeed_enabled or not reshard.needed(checkpoint, distributed.count):
            return checkpoint
        self._universal = checkpoints.own / f".{checkpoint.name}.universal.partial"
        if distributed.is_main:
            self.runtime.progress.log(f"cutting the optimizer's state for {distributed.count} process(es)")
            atomic.discard(self._universal)
            reshard.to_universal(checkpoint, self._universal, self.runtime.job.spec.output.uri)
        distributed.barrier()
        return self._universal

    def forget_universal(self) -> None:
        """Remove the form that fits all: every process has read its part."""
        if self._universal is not None:
            self.runtime.distributed.barrier()
            if self.runtime.distributed.is_main:
                atomic.discard(self._universal)
            self._universal = None

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """As the parent's; of another number of processes there is no state for each, and each begins with one of its own."""
        distributed = self.runtime.distributed
        if self.checkpoint is None or processes_of(self.checkpoint) == distributed.count:
            super()._load_rng_state(checkpoint)
            return
        drawn = np.random.SeedSequence([self.args.seed, self.state.global_step, distributed.count, distributed.rank])
        set_seed(int(drawn.generate_state(1)[0]))

    def evaluate_start(self) -> None:
        """The evaluation before the first step. Raises Interrupted when it is stopped: there is nothing to save yet."""
        found = self.evaluate()
        if self.stopping:
            raise Interrupted("stopped before the first step: run again to start")
        self.resume_state.before = {name: found[name] for name in figures.EVALUATED if name in found}

    def evaluate_late(self) -> None:
        """The evaluation that the stop cut short. Raises _NoStepLeft when nothing is to be trained after it."""
        self.evaluate()
        self.control.should_save = False  # weights and optimizer are on disk already
        if self.resume_state.best_step == self.state.global_step and self.checkpoint is not None:
            self.resume_state.best_folder = f"{self.checkpoint.parent.name}/{self.checkpoint.name}"
        if self.resume_state.evaluation_due or self.stopped_early() or self.state.global_step >= self.state.max_steps:
            raise _NoStepLeft

    def load_best(self) -> None:
        """Go back to the weights of the best evaluation, where early stopping was asked for."""
        best = self.best_checkpoint()
        if (
            self.settings.early_stopping_patience is not None
            and best is not None
            and self.resume_state.best_step != self.state.global_step
        ):
            self._load_weights(best)

    def _load_weights(self, checkpoint: Path) -> None:
        """Publish the weights of this checkpoint."""
        if self.is_deepspeed_enabled:
            # The engine may hold them in pieces, or not be built: what is saved there is whole already.
            self._weights_from = checkpoint
        else:
            self._load_from_checkpoint(str(checkpoint))

    def join_save(self) -> None:
        """In all but the first process: take part in its `save_model`, which under ZeRO-3 needs the part that each holds."""
        if self.is_deepspeed_enabled and self._weights_from is None:
            self.save_model()

    def release_model(self) -> None:
        """Give the memory of a model back that has been saved."""
        self.model = self.model_wrapped = None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the parent's, or a copy of what `_load_weights` chose."""
        if self._weights_from is None:
            super().save_model(output_dir, _internal_call)
            return
        if self.args.should_save:
            trained_weights.copy(self._weights_from, Path(output_dir or str(self.args.output_dir)))


class _StopEvaluating(Exception):
    """A stop was requested in the middle of an evaluation."""


class _NoStepLeft(Exception):
    """The resumed run had only an evaluation to make."""


def _saved_state(checkpoint: Path) -> TrainerState:
    state: TrainerState = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state


def newest_checkpoint(runtime: Runtime) -> Path | None:
    """The checkpoint to go on from: the first process looks for it and reads every file, which takes its time, once."""

    def find() -> str | None:
        found = runtime.checkpoints.newest()
        return str(found) if found else None

    newest = runtime.distributed.broadcast_object(find)
    return Path(newest) if newest else None


@contextmanager
def _same_random_state() -> Iterator[None]:
    """What happens inside leaves torch's random state as it was: a data loader draws a seed whenever it is started."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        yield
