"""Pretraining on plain text: ``python -m workloads.pretrain pretrain-job.yaml``.

Every field of PretrainJob can be given or overridden as an option (``--training.maxSteps 100``); ``--help`` lists them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.pretrain import PretrainJob, PretrainSpec
from workloads.errors import InputError, SpecError
from workloads.models import adapters, inspect, libraries, load, rope, saved_dtype
from workloads.models.weight_files import EMBEDDING, HEAD
from workloads.runtime import command
from workloads.runtime.runtime import Metrics, Runtime
from workloads.storage.contents import WHOLE_TOKENIZERS
from workloads.training import checks, memory_estimate
from workloads.training import run as training

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from workloads.data import token_blocks
    from workloads.data.tokenize import TokenizerSpec
    from workloads.training.auto import Policy
    from workloads.training.trainer import Trainer


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
    """Look, prepare, train, publish. The heavy libraries are imported once the folders and the spec were looked at."""
    spec = job.spec
    checks.check_trackers(spec)
    base = (
        checks.inspect_trainable(runtime.inputs["model"].path, "spec.model.uri", str(spec.model.uri), spec)
        if spec.model
        else None
    )
    if base is not None:
        assert spec.model is not None
        base = rope.stretched(base, spec.model.rope_scaling, "spec.model.ropeScaling")
    libraries.quiet(**checks.optional_packages(spec))
    start = _from_scratch(spec, runtime) if base is None else _from_base(spec, runtime, base)
    sizes = memory_estimate.sizes(start.base, spec)
    policy = training.resolve_policy(spec, runtime, start.base, sizes)

    from workloads.data import tokenizer_io
    from workloads.data.tokenize import TokenizerSpec, bytes_per_token

    tokenizer_spec = TokenizerSpec.of(start.tokenizer, start.tokenizer_folder)
    blocks = _blocks(spec, runtime, tokenizer_spec)

    def save(trainer: Trainer, folder: Path) -> None:
        _save_weights(trainer, spec, start, runtime, folder)
        tokenizer_io.save_tokenizer(start.tokenizer, start.tokenizer_folder, folder)

    setup = training.TrainingSetup(
        train=blocks.train,
        validation=blocks.validation,
        report=blocks.report,
        pad_token_id=start.tokenizer.pad_token_id,
        load_model=lambda: _model(spec, start, policy),
        save=save,
        sizes=sizes,
        dtype=policy.weights if spec.model is None else start.base.dtype,
        token_bytes=bytes_per_token(start.tokenizer, tokenizer_spec),
        rows=blocks.rows,
        evaluate_first=spec.model is not None,  # fresh weights know nothing
    )
    return training.train(job, runtime, policy, setup)


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
    ends = {EMBEDDING, HEAD}
    if spec.trainable == "LoRA" and found.changes and not ends <= set(spec.lora.modules_to_save):
        raise SpecError(
            f"lora.modulesToSave is {', '.join(spec.lora.modules_to_save) or 'empty'}, and tokenizer {spec.tokenizer.uri} needs new rows of "
            f"{EMBEDDING} and {HEAD}, which an adapter holds only when they are saved with it: name both in lora.modulesToSave"
        )
    base = inspect.with_rows(base, found.rows)
    checks.check_length(base, spec)
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


def _blocks(spec: PretrainSpec, runtime: Runtime, tokenizer_spec: TokenizerSpec) -> token_blocks.Prepared:
    """The text of the data set, tokenised and cut into blocks."""
    from workloads.data import token_blocks

    runtime.progress.update(stage="Preparing")
    with runtime.stop.interruptible(), runtime.distributed.main_process_first():
        return token_blocks.prepare(
            spec,
            runtime.inputs,
            tokenizer_spec,
            runtime.cache,
            processes=runtime.scale.asked,
            log=runtime.progress.log,
            heartbeat=runtime.progress.heartbeat,
        )


def _model(spec: PretrainSpec, start: Start, policy: Policy) -> PreTrainedModel | PeftModel:
    """The model with what is trainable in it."""
    from workloads.models import from_config, resize_embeddings

    if spec.model is None:
        return from_config.fresh(start.config, policy)
    loaded = load.load_base(start.base, f"spec.model {spec.model.uri}", policy)
    if start.remap is not None:
        resize_embeddings.change_vocabulary(loaded, start.remap)
        load.name_special_tokens(loaded, start.tokenizer)
    if spec.trainable == "LoRA":
        return adapters.attach(loaded, spec.lora, policy)
    if spec.trainable == "Embeddings":
        resize_embeddings.freeze_all_but_embeddings(loaded)
    return loaded


def _save_weights(trainer: Trainer, spec: PretrainSpec, start: Start, runtime: Runtime, folder: Path) -> None:
    """An adapter, or a whole model in the type of its base; one from scratch in the type that it was trained in."""
    trainer.save_model(str(folder))
    if spec.model is None:
        return
    if spec.trainable == "LoRA":
        adapters.name_base(folder, spec.model, start.base)
    else:
        saved_dtype.convert(folder, start.base.dtype, runtime.progress.heartbeat)


if __name__ == "__main__":
    sys.exit(command.main(PretrainJob, run))
