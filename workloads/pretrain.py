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
from workloads import cli, model, policy
from workloads.errors import InputError, Interrupted, SpecError
from workloads.runtime import Metrics, Runtime

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True)
class Start:
    """What training starts from."""

    base: model.Base
    """The shapes that will be trained: with a row for each token."""
    tokenizer: Any
    tokenizer_folder: Path
    config: Any = None
    """A transformers configuration, for a model from scratch."""
    origins: Any = None
    """Where the rows of another vocabulary come from."""


def run(job: PretrainJob, here: Runtime) -> Metrics:
    """Load, prepare, train, publish. The heavy libraries are imported once the folders and the spec were looked at."""
    spec = job.spec
    model.check_trackers(spec)
    base = model.inspect(here.inputs["model"].path, "spec.model.uri", spec.model.uri, spec) if spec.model else None
    model.quiet_libraries(**model.needs(spec))
    start = _from_scratch(spec, here) if base is None else _from_base(spec, here, base)

    chosen = policy.resolve(spec, model.device(), model.sizes(start.base, spec))
    here.resolved(chosen.as_dict())
    for note in chosen.notes:
        here.progress.say(note)

    from workloads import blocks, tokenizer_files, zero
    from workloads.tokens import Recipe

    here.progress.update(stage="Preparing")

    recipe = Recipe.of(start.tokenizer, start.tokenizer_folder)
    with here.stop.at_once(), here.ranks.first_before_others():
        text = blocks.prepare(
            spec,
            here.inputs,
            recipe,
            here.cache,
            processes=here.ranks.count,
            say=here.progress.say,
            beat=here.progress.beat,
        )

    here.progress.update(stage="Loading")
    with here.stop.at_once():
        trainer = _build(spec, here, start, chosen, text, recipe)
    with zero.mismatches_told():
        trainer.fit()
    if trainer.stopping:
        raise Interrupted(
            f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, with a checkpoint: run again to go on"
        )
    trainer.load_best()

    metrics = trainer.metrics()
    if not here.ranks.first:
        trainer.give_weights()
        return metrics
    kind = job.output_kind
    with here.output(kind, metrics) as folder:
        _publish(folder, spec, here, start, chosen, trainer)
        tokenizer_files.save_tokenizer(start.tokenizer, start.tokenizer_folder, folder)
        _write_card(folder, job, kind, here, chosen, text, metrics, trainer)
    return metrics


def _from_base(spec: PretrainSpec, here: Runtime, base: model.Base) -> Start:
    """A base model, with its own tokenizer or with another one."""
    from workloads import embeddings, tokenizer_files

    assert spec.model is not None
    old = tokenizer_files.load_tokenizer(base.folder)
    if spec.tokenizer is None:
        model.check(base, old, spec.model, spec)
        return Start(base, old, base.folder)
    folder = _tokenizer_folder(spec, here)
    new = tokenizer_files.load_tokenizer(folder)
    found = embeddings.origins(old, new, base.rows)
    here.progress.say(str(found))
    ends = {model.EMBEDDING, model.HEAD}
    if spec.trainable == "LoRA" and found.changes and not ends <= set(spec.lora.modules_to_save):
        raise SpecError(
            f"lora.modulesToSave is {', '.join(spec.lora.modules_to_save) or 'empty'}, and tokenizer {spec.tokenizer.uri} needs new rows of "
            f"{model.EMBEDDING} and {model.HEAD}, which an adapter holds only when they are saved with it: name both in lora.modulesToSave"
        )
    base = model.with_rows(base, found.rows)
    model.check_length(base, spec.model.rope_scaling, spec)
    return Start(base, new, folder, origins=found)


def _from_scratch(spec: PretrainSpec, here: Runtime) -> Start:
    """Fresh weights of the shape that `init` describes."""
    from workloads import scratch, tokenizer_files

    assert spec.init is not None
    folder = _tokenizer_folder(spec, here)
    tokenizer = tokenizer_files.load_tokenizer(folder)
    config = scratch.configuration(spec.init, here.inputs["init.config"].path, tokenizer, spec.training.block_size)
    return Start(scratch.described(config, here.inputs["init.config"].path), tokenizer, folder, config=config)


def _tokenizer_folder(spec: PretrainSpec, here: Runtime) -> Path:
    """Where the tokenizer of the spec lies; a file stands for the folder that holds it."""
    assert spec.tokenizer is not None
    path = here.inputs["tokenizer"].path
    if not path.is_file():
        return path
    if path.name not in TOKENIZER_FILES:
        raise InputError(
            f"spec.tokenizer.uri {spec.tokenizer.uri}: {path.name} is no tokenizer: name the folder that holds {' or '.join(TOKENIZER_FILES)}"
        )
    return path.parent


def _build(spec: PretrainSpec, here: Runtime, start: Start, chosen: policy.Policy, text: Any, recipe: Any) -> Any:
    """The trainer, at its newest checkpoint where there is one."""
    import torch
    from transformers import set_seed

    from workloads import arguments, batches, curves, training, zero
    from workloads.tokens import piece_bytes

    deepspeed = zero.config(spec.deepspeed, chosen, here.progress.say)
    if deepspeed is not None:
        zero.start(on_gpu=torch.cuda.is_available(), timeout=spec.failure_policy.hang_timeout_seconds)
    settings = arguments.of(spec, chosen, here.cache / "scratch", deepspeed, here.ranks.count)
    checkpoint = training.newest_checkpoint(here)

    set_seed(spec.training.seed)  # fresh weights and the adapter's first ones are random
    trainer = training.Trainer(
        here,
        spec.training,
        checkpoint,
        piece_bytes=torch.from_numpy(piece_bytes(start.tokenizer, recipe)),
        evaluate_first=spec.model is not None,  # fresh weights know nothing
        model=_model(spec, start, chosen),
        args=settings,
        data_collator=batches.Collator(start.tokenizer.pad_token_id, flat=chosen.attention in training.FLASH),
        train_dataset=text.train,
        eval_dataset=text.validation,
        callbacks=[curves.TensorBoard(here.checkpoints.own.parent / "runs")]
        if "TensorBoard" in spec.training.report_to and here.ranks.first
        else [],
    )
    trainer.tell_plan(len(text.train))
    return trainer


def _model(spec: PretrainSpec, start: Start, chosen: policy.Policy) -> Any:
    """The model with what is trainable in it."""
    from workloads import embeddings, scratch

    if spec.model is None:
        return scratch.fresh(start.config, chosen)
    loaded = model.load(start.base, spec.model, chosen)
    if start.origins is not None:
        embeddings.change_vocabulary(loaded, start.origins)
        model.name_special_tokens(loaded, start.tokenizer)
    if spec.trainable == "LoRA":
        return model.attach_adapter(loaded, spec.lora, chosen)
    if spec.trainable == "Embeddings":
        embeddings.train_only(loaded)
    return loaded


def _publish(
    folder: Path, spec: PretrainSpec, here: Runtime, start: Start, chosen: policy.Policy, trainer: Any
) -> None:
    """The weights: an adapter, or a whole model."""
    trainer.model.config.use_cache = True
    if spec.trainable == "Embeddings":
        model.in_one_dtype(trainer.model, chosen)
    trainer.save_model(str(folder))
    if spec.trainable == "LoRA":
        assert spec.model is not None
        model.name_base(folder, spec.model, start.base)
    runs = here.checkpoints.own.parent / "runs"
    if runs.is_dir():
        shutil.copytree(runs, folder / "runs")


def _write_card(
    folder: Path,
    job: PretrainJob,
    kind: str,
    here: Runtime,
    chosen: policy.Policy,
    text: Any,
    metrics: Metrics,
    trainer: Any,
) -> None:
    from workloads import card

    curves = card.Curves.of(trainer.state.log_history)
    card.write(folder, job, kind, here.inputs, chosen.as_dict(), text.report, metrics, curves)


if __name__ == "__main__":
    sys.exit(cli.main(PretrainJob, run))
