"""Supervised fine-tuning: ``python -m workloads.sft sft-job.yaml``.

Every field of SFTJob can be given or overridden as an option (``--training.epochs 1``); ``--help`` lists them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from alpaca_operator.api.sft import SFTJob, SFTSpec
from workloads import cli, model, policy
from workloads.errors import Interrupted
from workloads.runtime import Metrics, Runtime

PROOF_ROWS = 8
PROOF_TOKENS = 256
"""How much of the training data a merged model is compared on."""


def run(job: SFTJob, here: Runtime) -> Metrics:
    """Load, prepare, train, publish. The heavy libraries are imported once the folders and the spec were looked at."""
    spec = job.spec
    model.check_trackers(spec)
    base = model.inspect(here.inputs["model"].path, "spec.model.uri", spec.model.uri, spec)
    adapter = here.inputs["adapter"].path if spec.adapter else None
    if adapter is not None:
        model.check_adapter(base, adapter, spec)
    sizes = model.sizes(base, spec)
    model.quiet_libraries(**model.needs(spec))

    chosen = policy.resolve(spec, model.device(), sizes)
    here.resolved(chosen.as_dict())
    for note in chosen.notes:
        here.progress.say(note)

    from workloads import data, templates, tokenizer_files

    tokenizer = tokenizer_files.load_tokenizer(base.folder)
    model.check(base, tokenizer, spec.model, spec)
    template_file = here.inputs["templateFile"].path if spec.template_file else None
    template = templates.load(spec.template, template_file, tokenizer, train_on_prompt=spec.dataset.train_on_prompt)

    here.progress.update(stage="Preparing")
    with here.stop.at_once(), here.ranks.first_before_others():
        rows = data.datasets_for(
            spec,
            here.inputs,
            template,
            here.cache,
            spec.training.seed,
            say=here.progress.say,
            beat=here.progress.beat,
        )

    here.progress.update(stage="Loading")
    with here.stop.at_once():
        trainer = _build(spec, here, base, chosen, adapter, rows, tokenizer.pad_token_id)
    from workloads import zero

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
    kind = "LoRAAdapter" if spec.method != "Full" and not spec.merge else "Model"
    with here.output(kind, metrics) as folder:
        _publish(folder, job, here, base, trainer, rows, metrics)
        tokenizer_files.save_tokenizer(tokenizer, base.folder, folder, template)
        _write_generation_config(folder, tokenizer, template.stop_ids)
        _write_card(folder, job, kind, here, chosen, rows, metrics, trainer)
    return metrics


def _build(
    spec: SFTSpec, here: Runtime, base: model.Base, chosen: policy.Policy, adapter: Path | None, rows: Any, pad: int
) -> Any:
    """The trainer, at its newest checkpoint where there is one."""
    import torch
    from transformers import set_seed

    from workloads import arguments, batches, curves, training, zero

    deepspeed = zero.config(spec.deepspeed, chosen, here.progress.say)
    if deepspeed is not None:
        zero.start(on_gpu=torch.cuda.is_available(), timeout=spec.failure_policy.hang_timeout_seconds)
    settings = arguments.of(spec, chosen, here.cache / "scratch", deepspeed, here.ranks.count)
    checkpoint = training.newest_checkpoint(here)

    set_seed(spec.training.seed)  # the adapter's first weights are random
    loaded = model.load(base, spec.model, chosen)
    if spec.method != "Full":
        loaded = model.attach_adapter(loaded, spec.lora, chosen, adapter)
    trainer = training.Trainer(
        here,
        spec.training,
        checkpoint,
        model=loaded,
        args=settings,
        data_collator=batches.Collator(pad, flat=chosen.attention in training.FLASH),
        train_dataset=rows.train.with_format("numpy"),
        eval_dataset=rows.validation.with_format("numpy") if rows.validation is not None else None,
        callbacks=[curves.TensorBoard(here.checkpoints.own.parent / "runs")]
        if "TensorBoard" in spec.training.report_to and here.ranks.first
        else [],
    )
    trainer.tell_plan(len(rows.train))
    return trainer


def _publish(
    folder: Path, job: SFTJob, here: Runtime, base: model.Base, trainer: Any, rows: Any, metrics: Metrics
) -> None:
    """The weights: an adapter, a merged model with its adapter beside it, or a whole model."""
    from workloads import merging

    spec = job.spec
    adapter_folder = folder / "adapter" if spec.merge else folder
    trainer.model.config.use_cache = True
    trainer.save_model(str(adapter_folder))
    if spec.method != "Full":
        model.name_base(adapter_folder, spec.model, base)
    if spec.merge:
        here.progress.update(stage="Merging")
        dtype = str(base.config.get("dtype") or base.config.get("torch_dtype") or "float32")
        trainer.model = trainer.model_wrapped = None  # its memory is wanted
        sample = [[int(token) for token in ids[:PROOF_TOKENS]] for ids in rows.train[:PROOF_ROWS]["input_ids"]]
        adapter = merging.Adapter.open(adapter_folder, "the adapter that was trained")
        target = merging.Target(folder, dtype, remedy="set merge to false to get the adapter", beat=here.progress.beat)
        proof = merging.merge(base, [merging.Step(adapter)], target, sample, spec.model.rope_scaling)
        metrics["mergeLogitDifference"] = proof.logit_difference
        metrics["mergeTokenAgreement"] = proof.token_agreement
        here.progress.say(
            f"merged in float32, saved as {dtype}: largest logit difference {proof.logit_difference:.3g}, the same likeliest token at "
            f"{100 * proof.token_agreement:.1f} % of the positions"
        )
    runs = here.checkpoints.own.parent / "runs"
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
    here: Runtime,
    chosen: policy.Policy,
    rows: Any,
    metrics: Metrics,
    trainer: Any,
) -> None:
    from workloads import card

    card.write(
        folder,
        job,
        kind,
        here.inputs,
        chosen.as_dict(),
        rows.report,
        metrics,
        card.Curves.of(trainer.state.log_history),
    )


if __name__ == "__main__":
    sys.exit(cli.main(SFTJob, run))
