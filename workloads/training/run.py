"""A training, from a policy to a published result: the same for every kind that trains.

A kind's command says what is trained, on what, and how its weights are saved (`TrainingSetup`); all between is here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.status import OutputKind
from workloads.data.mixture import Part, is_weighed
from workloads.errors import Interrupted
from workloads.models import libraries, rope
from workloads.models.inspect import Base
from workloads.models.kernels import kernels_of
from workloads.runtime.runtime import Metrics, Runtime
from workloads.storage.room import in_words
from workloads.system import hardware
from workloads.system.hardware import Device
from workloads.training import auto, divergence, extent, figures, method
from workloads.training.auto import Policy
from workloads.training.memory_estimate import Sizes
from workloads.training.method import Spec

if TYPE_CHECKING:
    import numpy as np

    from alpaca_operator.api.pretrain import PretrainJob
    from alpaca_operator.api.sft import SFTJob
    from workloads.training.trainer import Trainer


@dataclass(frozen=True)
class TrainingSetup:
    """What differs between the kinds that train."""

    train: Any
    validation: Any
    """Data sets of tokenised sequences, as the Trainer takes them; ``validation`` may be None."""
    report: dict[str, Any]
    """What was read, dropped and packed, for the model card."""
    pad_token_id: int
    load_model: Callable[[], Any]
    """The model with what is trainable in it. Called once the random state was seeded: fresh weights are random."""
    save: Callable[[Trainer, Path], None]
    """Write what was trained into the folder: weights, tokenizer and whatever belongs to them."""
    sizes: Sizes
    dtype: str
    """Of a whole model's weights, as they are published."""
    merge: Callable[[Path, Path, Metrics], None] | None = None
    """Where the result is a merged model: make it of what `save` wrote into the first folder, in the second; may add metrics."""
    token_bytes: np.ndarray[Any, Any] | None = None
    """Bytes of text that each token stands for; given, evaluations tell bits per byte."""
    rows: str = ""
    """Which rows of the data are trained on, as a digest; empty where spec and inputs tell."""
    evaluate_first: bool = False
    """Evaluate before the first step, too, so that the metrics tell what the training gained."""


def resolve_policy(spec: Spec, runtime: Runtime, base: Base, sizes: Sizes) -> Policy:
    """Every `Auto` of the spec resolved for this device and this base, and told to the user. Raises SpecError for what cannot be
    honoured, by us or by DeepSpeed."""
    from workloads.training import deepspeed_check

    device = hardware.detect()
    policy = auto.resolve(spec, device, sizes, kernels_of(base.config))
    deepspeed_check.check(spec.deepspeed, on_gpu=device.kind == "cuda")
    runtime.resolved({**policy.as_dict(), **rope.recorded(base)})
    for note in (*policy.notes, *_idle_gpus(device, runtime.distributed.count)):
        runtime.progress.log(note)
    return policy


def _idle_gpus(device: Device, processes: int) -> tuple[str, ...]:
    if device.count <= processes:
        return ()
    return (
        f"{processes} of the {device.count} GPUs here are used, each by a process of its own: for all of them set "
        f"parallelism.processesPerNode to {device.count}",
    )


def train(job: SFTJob | PretrainJob, runtime: Runtime, policy: Policy, setup: TrainingSetup) -> Metrics:
    """Load, train from the newest checkpoint where there is one, publish. Raises Interrupted when a stop was requested meanwhile."""
    from workloads.training import deepspeed_config

    _must_have_room(job.spec, runtime, policy, setup)
    _tell_mixture(job.spec, runtime, setup)
    runtime.progress.update(stage="Loading")
    with runtime.stop.interruptible():
        trainer = _trainer(job.spec, runtime, policy, setup)
    with deepspeed_config.mismatches_told():
        trainer.fit()
    if trainer.stopping:
        raise Interrupted(
            f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, with a checkpoint: run again to go on"
        )
    divergence.check_moved(trainer.resume_state.moved, trainer.state.global_step, job.spec.training)
    trainer.load_best()

    metrics = figures.metrics(trainer)
    figures.tell_goodput(trainer)
    if not runtime.distributed.is_main:
        trainer.join_save()
        return metrics
    _publish(job, runtime, policy, setup, trainer, metrics)
    return metrics


def _tell_mixture(spec: Spec, runtime: Runtime, setup: TrainingSetup) -> None:
    """What each of several sources gives to the training: in the log, the card and the artifact."""
    parts = [Part(**part) for part in setup.report.get("mixture", ())]
    if not parts or (len(parts) == 1 and not is_weighed(spec.dataset.train)):
        return
    epochs = extent.epochs(spec.training, len(setup.train), runtime.scale.asked)
    whole = sum(part.tokens for part in parts)
    for part in parts:
        line = part.line(epochs, whole)
        setup.report["lines"].append(line)
        runtime.progress.log(f"data: {line}")
    runtime.mixed([part.as_dict(epochs) for part in parts])


def _must_have_room(spec: Spec, runtime: Runtime, policy: Policy, setup: TrainingSetup) -> None:
    """Raises SpecError where the volume of the output is too small for the checkpoints and what is made of the last of them."""
    how, settings = method.of(spec), spec.training
    steps = extent.optimizer_steps(settings, len(setup.train), runtime.scale.asked)
    number, size = extent.checkpoints_at_once(settings, steps), extent.checkpoint_bytes(how, setup.sizes, policy)
    kept = f"training.keepCheckpoints is {settings.keep_checkpoints}, and one more is being written"
    runtime.must_have_room(
        result=extent.result_bytes(how, setup.sizes, policy, setup.dtype, merged=setup.merge is not None),
        checkpoints=number * size,
        written=f"{number} checkpoints of {in_words(size)} each ({kept})"
        if number > 1
        else f"a checkpoint of {in_words(size)}",
        remedy=f"lower training.keepCheckpoints (now {settings.keep_checkpoints})",
    )


def _publish(
    job: SFTJob | PretrainJob,
    runtime: Runtime,
    policy: Policy,
    setup: TrainingSetup,
    trainer: Trainer,
    metrics: Metrics,
) -> None:
    """What was trained and, where it is to be merged, in its place the model that is made of it.

    What was trained comes first, so that a merge which fails, or is killed, costs the merge alone.
    """
    trained_kind: OutputKind = job.output_kind if setup.merge is None else "LoRAAdapter"
    trained = runtime.checkpoints.own / ".trained.partial"
    with runtime.output(trained_kind, metrics, final=setup.merge is None) as folder:
        trainer.model.config.use_cache = True
        setup.save(trainer, folder)
        _describe(folder, job, trained_kind, runtime, policy, setup, trainer, metrics)
        if setup.merge is not None:
            shutil.copytree(folder, trained)  # publishing takes the folder away, to a bucket perhaps
    if setup.merge is None:
        return
    trainer.release_model()  # merging needs the memory
    with runtime.output(job.output_kind, metrics) as folder:
        told = "stopped while merging; the adapter is published: run again, and it is merged"
        with libraries.whole_models(), runtime.stop.interruptible(told):
            setup.merge(trained, folder, metrics)
        _describe(folder, job, job.output_kind, runtime, policy, setup, trainer, metrics)


def _trainer(spec: Spec, runtime: Runtime, policy: Policy, setup: TrainingSetup) -> Trainer:
    """The trainer, at its newest checkpoint where there is one."""
    import torch
    from transformers import set_seed

    from workloads.data import collator
    from workloads.training import arguments, deepspeed_config, reshard
    from workloads.training.trainer import FLASH, Trainer, newest_checkpoint

    deepspeed = deepspeed_config.config(spec.deepspeed, policy, runtime.progress.log)
    if deepspeed is not None:
        deepspeed_config.start(on_gpu=torch.cuda.is_available(), timeout=spec.failure_policy.hang_timeout_seconds)
    runtime.checkpoints.trained_on(setup.rows)
    checkpoint = newest_checkpoint(runtime)
    if deepspeed is not None and checkpoint is not None:
        deepspeed = reshard.configured(deepspeed, checkpoint, runtime.distributed.count)
    settings = arguments.of(spec, policy, runtime.cache / "scratch", deepspeed, runtime.scale)

    set_seed(spec.training.seed)
    trainer = Trainer(
        runtime,
        spec.training,
        checkpoint,
        token_bytes=None if setup.token_bytes is None else torch.from_numpy(setup.token_bytes),
        evaluate_first=setup.evaluate_first,
        model=setup.load_model(),
        args=settings,
        data_collator=collator.Collator(setup.pad_token_id, flat=policy.attention in FLASH),
        train_dataset=setup.train,
        eval_dataset=setup.validation,
        callbacks=_callbacks(spec, runtime),
    )
    figures.tell_plan(trainer, len(setup.train))
    return trainer


def _callbacks(spec: Spec, runtime: Runtime) -> list[Any]:
    """Those that a spec asks for; a new one is added here."""
    from workloads.training.tensorboard import TensorBoard

    if "TensorBoard" in spec.training.report_to and runtime.distributed.is_main:
        return [TensorBoard(_tensorboard_folder(runtime))]
    return []


def _tensorboard_folder(runtime: Runtime) -> Path:
    """Beside the checkpoints, so that a resumed run continues the curves."""
    return runtime.checkpoints.own.parent / "runs"


def _describe(
    folder: Path,
    job: SFTJob | PretrainJob,
    kind: OutputKind,
    runtime: Runtime,
    policy: Policy,
    setup: TrainingSetup,
    trainer: Trainer,
    metrics: Metrics,
) -> None:
    """The curves and the card."""
    from workloads.training import model_card
    from workloads.training.curves import Curves

    runs = _tensorboard_folder(runtime)
    if runs.is_dir():
        shutil.copytree(runs, folder / "runs")
    model_card.write(
        folder,
        model_card.TrainedModel(
            job=job,
            kind=kind,
            inputs=runtime.inputs,
            policy=policy.as_dict(),
            report=setup.report,
            metrics=metrics,
            curves=Curves.of(trainer.state.log_history),
        ),
    )
