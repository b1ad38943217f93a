"""Supervised fine-tuning: ``python -m workloads.sft sft-job.yaml``.

Every field of SFTJob can be given or overridden as an option (``--training.epochs 1``); ``--help`` lists them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from alpaca_operator.api.sft import SFTJob, SFTSpec
from workloads.errors import Interrupted
from workloads.models import adapters, inspect, libraries, load
from workloads.runtime import command
from workloads.runtime.runtime import Metrics, Runtime
from workloads.system import hardware
from workloads.training import auto, checks, memory_estimate

PROOF_ROWS = 8
PROOF_TOKENS = 256
"""How much of the training data a merged model is compared on."""


def run(job: SFTJob, runtime: Runtime) -> Metrics:
    """Load, prepare, train, publish. The heavy libraries are imported once the folders and the spec were looked at."""
    spec = job.spec
    checks.check_trackers(spec)
    base = checks.inspect_trainable(runtime.inputs["model"].path, "spec.model.uri", spec.model.uri, spec)
    adapter = runtime.inputs["adapter"].path if spec.adapter else None
    if adapter is not None:
        adapters.check_adapter(base, adapter, spec)
    sizes = memory_estimate.sizes(base, spec)
    libraries.quiet(**checks.optional_packages(spec))

    chosen = auto.resolve(spec, hardware.detect(), sizes)
    runtime.resolved(chosen.as_dict())
    for note in chosen.notes:
        runtime.progress.log(note)

    from workloads.data import prepared, tokenizer_io
    from workloads.data.chat_templates import loading

    tokenizer = tokenizer_io.load_tokenizer(base.folder)
    checks.check_tokenizer_and_length(base, tokenizer, spec.model, spec)
    template_file = runtime.inputs["templateFile"].path if spec.template_file else None
    template = loading.load(spec.template, template_file, tokenizer, train_on_prompt=spec.dataset.train_on_prompt)

    runtime.progress.update(stage="Preparing")
    with runtime.stop.interruptible(), runtime.distributed.main_process_first():
        rows = prepared.datasets_for(
            spec,
            runtime.inputs,
            template,
            runtime.cache,
            spec.training.seed,
            log=runtime.progress.log,
            heartbeat=runtime.progress.heartbeat,
        )

    runtime.progress.update(stage="Loading")
    with runtime.stop.interruptible():
        trainer = _build(spec, runtime, base, chosen, adapter, rows, tokenizer.pad_token_id)
    from workloads.training import deepspeed_config

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
    kind = "LoRAAdapter" if spec.method != "Full" and not spec.merge else "Model"
    with runtime.output(kind, metrics) as folder:
        _publish(folder, job, runtime, base, trainer, rows, metrics)
        tokenizer_io.save_tokenizer(tokenizer, base.folder, folder, template)
        _write_generation_config(folder, tokenizer, template.stop_ids)
        _write_card(folder, job, kind, runtime, chosen, rows, metrics, trainer)
    return metrics


def _build(
    spec: SFTSpec, runtime: Runtime, base: inspect.Base, chosen: auto.Policy, adapter: Path | None, rows: Any, pad: int
) -> Any:
    """The trainer, at its newest checkpoint where there is one."""
    import torch
    from transformers import set_seed

    from workloads.data import collator
    from workloads.training import arguments, deepspeed_config, tensorboard
    from workloads.training.trainer import FLASH, Trainer, newest_checkpoint

    deepspeed = deepspeed_config.config(spec.deepspeed, chosen, runtime.progress.log)
    if deepspeed is not None:
        deepspeed_config.start(on_gpu=torch.cuda.is_available(), timeout=spec.failure_policy.hang_timeout_seconds)
    settings = arguments.of(spec, chosen, runtime.cache / "scratch", deepspeed, runtime.distributed.count)
    checkpoint = newest_checkpoint(runtime)

    set_seed(spec.training.seed)  # the adapter's first weights are random
    loaded = load.load_base(base, spec.model, chosen)
    if spec.method != "Full":
        loaded = adapters.attach(loaded, spec.lora, chosen, adapter)
    trainer = Trainer(
        runtime,
        spec.training,
        checkpoint,
        model=loaded,
        args=settings,
        data_collator=collator.Collator(pad, flat=chosen.attention in FLASH),
        train_dataset=rows.train.with_format("numpy"),
        eval_dataset=rows.validation.with_format("numpy") if rows.validation is not None else None,
        callbacks=[tensorboard.TensorBoard(runtime.checkpoints.own.parent / "runs")]
        if "TensorBoard" in spec.training.report_to and runtime.distributed.is_main
        else [],
    )
    trainer.tell_plan(len(rows.train))
    return trainer


def _publish(
    folder: Path, job: SFTJob, runtime: Runtime, base: inspect.Base, trainer: Any, rows: Any, metrics: Metrics
) -> None:
    """The weights: an adapter, a merged model with its adapter beside it, or a whole model."""
    from workloads.models import lora_adapter, merge_lora

    spec = job.spec
    adapter_folder = folder / "adapter" if spec.merge else folder
    trainer.model.config.use_cache = True
    trainer.save_model(str(adapter_folder))
    if spec.method != "Full":
        adapters.name_base(adapter_folder, spec.model, base)
    if spec.merge:
        runtime.progress.update(stage="Merging")
        dtype = str(base.config.get("dtype") or base.config.get("torch_dtype") or "float32")
        trainer.model = trainer.model_wrapped = None  # its memory is wanted
        sample = [[int(token) for token in ids[:PROOF_TOKENS]] for ids in rows.train[:PROOF_ROWS]["input_ids"]]
        adapter = lora_adapter.LoRAAdapter.open(adapter_folder, "the adapter that was trained")
        target = merge_lora.Target(
            folder, dtype, remedy="set merge to false to get the adapter", heartbeat=runtime.progress.heartbeat
        )
        proof = merge_lora.merge(base, [merge_lora.Step(adapter)], target, sample, spec.model.rope_scaling)
        metrics["mergeLogitDifference"] = proof.logit_difference
        metrics["mergeTokenAgreement"] = proof.token_agreement
        runtime.progress.log(
            f"merged in float32, saved as {dtype}: largest logit difference {proof.logit_difference:.3g}, the same likeliest token at "
            f"{100 * proof.token_agreement:.1f} % of the positions"
        )
    runs = runtime.checkpoints.own.parent / "runs"
    if runs.is_dir():
        shutil.copytree(runs, folder / "runs")


def _write_generation_config(folder: Path, tokenizer: Any, stop_ids: list[int]) -> None:
    """How the model is meant to be sampled, so that every server stops where it was trained to stop."""
    from transformers import GenerationConfig

    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stop_ids,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=0.3,
        top_p=0.95,
        top_k=50,
        repetition_penalty=1.1,
        max_new_tokens=512,
    ).save_pretrained(str(folder))


def _write_card(
    folder: Path,
    job: SFTJob,
    kind: str,
    runtime: Runtime,
    chosen: auto.Policy,
    rows: Any,
    metrics: Metrics,
    trainer: Any,
) -> None:
    from workloads.training import model_card

    model_card.write(
        folder,
        job,
        kind,
        runtime.inputs,
        chosen.as_dict(),
        rows.report,
        metrics,
        model_card.Curves.of(trainer.state.log_history),
    )


if __name__ == "__main__":
    sys.exit(command.main(SFTJob, run))
