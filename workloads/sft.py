"""Supervised fine-tuning: ``python -m workloads.sft sft-job.yaml``.

Every field of SFTJob can be given or overridden as an option (``--training.epochs 1``); ``--help`` lists them.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

from alpaca_operator.api.sft import SFTJob, SFTSpec
from workloads import cli, model, policy
from workloads.errors import Interrupted, SpecError
from workloads.runtime import Metrics, Runtime

FEW_STEPS = 20
"""Below this many optimizer steps a run is told to be short: packing makes it easy to train less than one meant to."""
PROOF_ROWS = 8
PROOF_TOKENS = 256
"""How much of the training data a merged model is compared on."""


def run(job: SFTJob, here: Runtime) -> Metrics:
    """Load, prepare, train, publish. The heavy libraries are imported once the folders and the spec were looked at."""
    spec = job.spec
    _refuse_missing_tracker(spec)
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
    rows = data.datasets_for(
        spec,
        here.inputs,
        template,
        here.cache,
        spec.training.seed,
        say=here.progress.say,
        beat=here.progress.beat,
    )
    here.stop.check()

    here.progress.update(stage="Loading")
    trainer = _build(spec, here, base, chosen, adapter, rows, tokenizer.pad_token_id)
    here.stop.check()
    trainer.fit()
    if here.stop.requested:
        raise Interrupted(
            f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, with a checkpoint: run again to go on"
        )
    trainer.load_best()

    metrics = _metrics(trainer)
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

    from workloads import curves, training, zero

    deepspeed = zero.config(spec.deepspeed, chosen, here.progress.say)
    if deepspeed is not None:
        zero.start(on_gpu=torch.cuda.is_available())
    arguments = training.arguments(spec, chosen, here.cache / "scratch", deepspeed)
    checkpoint = here.checkpoints.newest()

    set_seed(spec.training.seed)  # the adapter's first weights are random
    loaded = model.load(base, spec.model, chosen)
    if spec.method != "Full":
        loaded = model.attach_adapter(loaded, spec.lora, chosen, adapter)
    trainer = training.Trainer(
        here,
        spec.training,
        checkpoint,
        model=loaded,
        args=arguments,
        data_collator=training.Collator(pad, flat=chosen.attention in training.FLASH),
        train_dataset=rows.train.with_format("numpy"),
        eval_dataset=rows.validation.with_format("numpy") if rows.validation is not None else None,
        callbacks=[curves.TensorBoard(here.checkpoints.own.parent / "runs")]
        if "TensorBoard" in spec.training.report_to
        else [],
    )
    _tell_plan(spec, here, loaded, rows, checkpoint)
    return trainer


def _tell_plan(spec: SFTSpec, here: Runtime, loaded: Any, rows: Any, checkpoint: Path | None) -> None:
    """What is going to happen, in numbers."""
    training = spec.training
    sequences = len(rows.train)
    per_step = training.batch_size_per_device * training.gradient_accumulation

    batches = math.ceil(sequences / training.batch_size_per_device)
    total = training.max_steps or math.ceil(math.ceil(batches / training.gradient_accumulation) * training.epochs)
    trained = sum(weight.numel() for weight in loaded.parameters() if weight.requires_grad)
    everything = sum(weight.numel() for weight in loaded.parameters())
    here.progress.say(f"{trained:,} of {everything:,} weights are trained ({100 * trained / everything:.2f} %)")
    if total < FEW_STEPS:
        here.progress.say(
            f"warning: {total} optimizer steps in all ({per_step} sequences each): for more, lower training.gradientAccumulation (now "
            f"{training.gradient_accumulation}) or raise training.epochs (now {training.epochs:g})"
        )
    if checkpoint is not None:
        here.progress.say(f"going on from {checkpoint.parent.name}/{checkpoint.name}")


def _publish(
    folder: Path, job: SFTJob, here: Runtime, base: model.Base, trainer: Any, rows: Any, metrics: Metrics
) -> None:
    """The weights: an adapter, a merged model with its adapter beside it, or a whole model."""
    from workloads.merge import merge

    spec = job.spec
    adapter_folder = folder / "adapter" if spec.merge else folder
    trainer.model.config.use_cache = True
    trainer.save_model(str(adapter_folder))
    if spec.method != "Full":
        _name_base(adapter_folder, spec, base)
    if spec.merge:
        here.progress.update(stage="Merging")
        dtype = str(base.config.get("dtype") or base.config.get("torch_dtype") or "float32")
        trainer.model = trainer.model_wrapped = None  # three copies of the base would not fit where two do
        sample = [[int(token) for token in ids[:PROOF_TOKENS]] for ids in rows.train[:PROOF_ROWS]["input_ids"]]
        proof = merge(base, adapter_folder, folder, sample, dtype, spec.model.rope_scaling)
        metrics["mergeLogitDifference"] = proof.logit_difference
        metrics["mergeTokenAgreement"] = proof.token_agreement
        here.progress.say(
            f"merged in float32, saved as {dtype}: largest logit difference {proof.logit_difference:.3g}, the same likeliest token at "
            f"{100 * proof.token_agreement:.1f} % of the positions"
        )
    runs = here.checkpoints.own.parent / "runs"
    if runs.is_dir():
        shutil.copytree(runs, folder / "runs")


def _name_base(adapter_folder: Path, spec: SFTSpec, base: model.Base) -> None:
    """Let adapter_config.json name the base as others find it: a repository and revision on the hub, else the folder."""
    path = adapter_folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if spec.model.uri.startswith("hf://"):
        name, _, revision = spec.model.uri.removeprefix("hf://").partition("@")
        config |= {"base_model_name_or_path": name, "revision": revision or None}
    else:
        config["base_model_name_or_path"] = str(base.folder)
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


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


def _metrics(trainer: Any) -> Metrics:
    """The numbers of the weights that are published: those of the best evaluation where early stopping chose it."""
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    evaluations = [entry for entry in history if "eval_loss" in entry]
    found: Metrics = {
        "steps": float(trainer.state.global_step),
        "epochs": round(float(trainer.state.epoch or 0.0), 4),
        "tokens": float(trainer.kept.tokens),
        "trainLoss": sum(losses) / len(losses) if losses else None,
        "finalLoss": losses[-1] if losses else None,
    }
    if evaluations:
        best = trainer.kept.best_step if trainer.settings.early_stopping_patience is not None else None
        chosen = next((entry for entry in evaluations if entry["step"] == best), evaluations[-1])
        found |= {
            "evalLoss": chosen["eval_loss"],
            "perplexity": chosen["eval_perplexity"],
            "meanTokenAccuracy": chosen["eval_mean_token_accuracy"],
        }
        if best is not None:
            found["bestStep"] = float(best)
    return {name: value if value is None or math.isfinite(value) else None for name, value in found.items()}


def _refuse_missing_tracker(spec: SFTSpec) -> None:
    if "WandB" in spec.training.report_to and importlib.util.find_spec("wandb") is None:
        raise SpecError(
            "training.reportTo names WandB and the package wandb is not installed: add it to the image (pip install wandb), or remove "
            "WandB from reportTo"
        )


if __name__ == "__main__":
    sys.exit(cli.main(SFTJob, run))
