"""Pretraining on plain text: ``python -m workloads.pretrain pretrain-job.yaml``.

Every field of PretrainJob can be given or overridden as an option (``--training.maxSteps 100``); ``--help`` lists them.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca_operator.api.pretrain import PretrainJob, PretrainSpec
from workloads.errors import InputError, Interrupted, SpecError
from workloads.models import adapters, inspect, libraries, load
from workloads.runtime import command
from workloads.runtime.runtime import Metrics, Runtime
from workloads.storage.contents import WHOLE_TOKENIZERS
from workloads.system import hardware
from workloads.training import auto, checks, memory_estimate


@dataclass(frozen=True)
class Start:
    """What training starts from."""

    base: inspect.Base
    """The shapes that will be trained: with a row for each token."""
    tokenizer: Any
    tokenizer_folder: Path
    config: Any = None
    """A transformers configuration, for a model from scratch."""
    remap: Any = None
    """Where the rows of another vocabulary come from."""


def run(job: PretrainJob, runtime: Runtime) -> Metrics:
    """Load, prepare, train, publish. The heavy libraries are imported once the folders and the spec were looked at."""
    spec = job.spec
    checks.check_trackers(spec)
    base = (
        checks.inspect_trainable(runtime.inputs["model"].path, "spec.model.uri", spec.model.uri, spec)
        if spec.model
        else None
    )
    libraries.quiet(**checks.optional_packages(spec))
    start = _from_scratch(spec, runtime) if base is None else _from_base(spec, runtime, base)

    chosen = auto.resolve(spec, hardware.detect(), memory_estimate.sizes(start.base, spec))
    runtime.resolved(chosen.as_dict())
    for note in chosen.notes:
        runtime.progress.log(note)

    from workloads.data import token_blocks, tokenizer_io
    from workloads.data.tokenize import TokenizerSpec
    from workloads.training import deepspeed_config

    runtime.progress.update(stage="Preparing")

    recipe = TokenizerSpec.of(start.tokenizer, start.tokenizer_folder)
    with runtime.stop.interruptible(), runtime.distributed.main_process_first():
        text = token_blocks.prepare(
            spec,
            runtime.inputs,
            recipe,
            runtime.cache,
            processes=runtime.distributed.count,
            log=runtime.progress.log,
            heartbeat=runtime.progress.heartbeat,
        )

    runtime.progress.update(stage="Loading")
    with runtime.stop.interruptible():
        trainer = _build(spec, runtime, start, chosen, text, recipe)
    with deepspeed_config.mismatches_told():
        trainer.fit()
    if trainer.stopping:
        raise Interrupted(
            f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, with a checkpoint: run again to go on"
        )
    trainer.load_best()

    metrics = trainer.metrics()
    if not runtime.distributed.is_main:
        trainer.join_save()
        return metrics
    kind = job.output_kind
    with runtime.output(kind, metrics) as folder:
        _publish(folder, spec, runtime, start, chosen, trainer)
        tokenizer_io.save_tokenizer(start.tokenizer, start.tokenizer_folder, folder)
        _write_card(folder, job, kind, runtime, chosen, text, metrics, trainer)
    return metrics


def _from_base(spec: PretrainSpec, runtime: Runtime, base: inspect.Base) -> Start:
    """A base model, with its own tokenizer or with another one."""
    from workloads.data import tokenizer_io
    from workloads.models import resize_embeddings

    assert spec.model is not None
    old = tokenizer_io.load_tokenizer(base.folder)
    if spec.tokenizer is None:
        checks.check_tokenizer_and_length(base, old, spec.model, spec)
        return Start(base, old, base.folder)
    folder = _tokenizer_folder(spec, runtime)
    new = tokenizer_io.load_tokenizer(folder)
    found = resize_embeddings.embedding_remap(old, new, base.rows)
    runtime.progress.log(str(found))
    ends = {inspect.EMBEDDING, inspect.HEAD}
    if spec.trainable == "LoRA" and found.changes and not ends <= set(spec.lora.modules_to_save):
        raise SpecError(
            f"lora.modulesToSave is {', '.join(spec.lora.modules_to_save) or 'empty'}, and tokenizer {spec.tokenizer.uri} needs new rows of "
            f"{inspect.EMBEDDING} and {inspect.HEAD}, which an adapter holds only when they are saved with it: name both in lora.modulesToSave"
        )
    base = inspect.with_rows(base, found.rows)
    checks.check_length(base, spec.model.rope_scaling, spec)
    return Start(base, new, folder, remap=found)


def _from_scratch(spec: PretrainSpec, runtime: Runtime) -> Start:
    """Fresh weights of the shape that `init` describes."""
    from workloads.data import tokenizer_io
    from workloads.models import from_config

    assert spec.init is not None
    folder = _tokenizer_folder(spec, runtime)
    tokenizer = tokenizer_io.load_tokenizer(folder)
    config = from_config.configuration(
        spec.init, runtime.inputs["init.config"].path, tokenizer, spec.training.block_size
    )
    return Start(from_config.described(config, runtime.inputs["init.config"].path), tokenizer, folder, config=config)


def _tokenizer_folder(spec: PretrainSpec, runtime: Runtime) -> Path:
    """Where the tokenizer of the spec lies; a file stands for the folder that holds it."""
    assert spec.tokenizer is not None
    path = runtime.inputs["tokenizer"].path
    if not path.is_file():
        return path
    if path.name not in WHOLE_TOKENIZERS:
        raise InputError(
            f"spec.tokenizer.uri {spec.tokenizer.uri}: {path.name} is no tokenizer: name the folder that holds {' or '.join(WHOLE_TOKENIZERS)}"
        )
    return path.parent


def _build(spec: PretrainSpec, runtime: Runtime, start: Start, chosen: auto.Policy, text: Any, recipe: Any) -> Any:
    """The trainer, at its newest checkpoint where there is one."""
    import torch
    from transformers import set_seed

    from workloads.data import collator
    from workloads.data.tokenize import bytes_per_token
    from workloads.training import arguments, deepspeed_config, tensorboard
    from workloads.training.trainer import FLASH, Trainer, newest_checkpoint

    deepspeed = deepspeed_config.config(spec.deepspeed, chosen, runtime.progress.log)
    if deepspeed is not None:
        deepspeed_config.start(on_gpu=torch.cuda.is_available(), timeout=spec.failure_policy.hang_timeout_seconds)
    settings = arguments.of(spec, chosen, runtime.cache / "scratch", deepspeed, runtime.distributed.count)
    checkpoint = newest_checkpoint(runtime)

    set_seed(spec.training.seed)  # fresh weights and the adapter's first ones are random
    trainer = Trainer(
        runtime,
        spec.training,
        checkpoint,
        piece_bytes=torch.from_numpy(bytes_per_token(start.tokenizer, recipe)),
        evaluate_first=spec.model is not None,  # fresh weights know nothing
        model=_model(spec, start, chosen),
        args=settings,
        data_collator=collator.Collator(start.tokenizer.pad_token_id, flat=chosen.attention in FLASH),
        train_dataset=text.train,
        eval_dataset=text.validation,
        callbacks=[tensorboard.TensorBoard(runtime.checkpoints.own.parent / "runs")]
        if "TensorBoard" in spec.training.report_to and runtime.distributed.is_main
        else [],
    )
    trainer.tell_plan(len(text.train))
    return trainer


def _model(spec: PretrainSpec, start: Start, chosen: auto.Policy) -> Any:
    """The model with what is trainable in it."""
    from workloads.models import from_config, resize_embeddings

    if spec.model is None:
        return from_config.fresh(start.config, chosen)
    loaded = load.load_base(start.base, spec.model, chosen)
    if start.remap is not None:
        resize_embeddings.change_vocabulary(loaded, start.remap)
        load.name_special_tokens(loaded, start.tokenizer)
    if spec.trainable == "LoRA":
        return adapters.attach(loaded, spec.lora, chosen)
    if spec.trainable == "Embeddings":
        resize_embeddings.freeze_all_but_embeddings(loaded)
    return loaded


def _publish(
    folder: Path, spec: PretrainSpec, runtime: Runtime, start: Start, chosen: auto.Policy, trainer: Any
) -> None:
    """The weights: an adapter, or a whole model."""
    trainer.model.config.use_cache = True
    if spec.trainable == "Embeddings":
        load.in_one_dtype(trainer.model, chosen)
    trainer.save_model(str(folder))
    if spec.trainable == "LoRA":
        assert spec.model is not None
        adapters.name_base(folder, spec.model, start.base)
    runs = runtime.checkpoints.own.parent / "runs"
    if runs.is_dir():
        shutil.copytree(runs, folder / "runs")


def _write_card(
    folder: Path,
    job: PretrainJob,
    kind: str,
    runtime: Runtime,
    chosen: auto.Policy,
    text: Any,
    metrics: Metrics,
    trainer: Any,
) -> None:
    from workloads.training import model_card

    curves = model_card.Curves.of(trainer.state.log_history)
    model_card.write(folder, job, kind, runtime.inputs, chosen.as_dict(), text.report, metrics, curves)


if __name__ == "__main__":
    sys.exit(command.main(PretrainJob, run))
