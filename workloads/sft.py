"""Supervised fine-tuning: ``python -m workloads.sft sft-job.yaml``.

Every field of SFTJob can be given or overridden as an option (``--training.epochs 1``); ``--help`` lists them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.sft import SFTJob, SFTSpec
from workloads.models import adapters, libraries, load, rope, safetensors_io, saved_dtype
from workloads.models.inspect import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from workloads.runtime import command
from workloads.runtime.runtime import Metrics, Runtime
from workloads.training import checks, memory_estimate
from workloads.training import run as training

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from workloads.data import prepared
    from workloads.data.chat_templates.template import Template
    from workloads.models.inspect import Base
    from workloads.training.trainer import Trainer

PROOF_ROWS = 8
PROOF_TOKENS = 256
"""How much of the training data a merged model is compared on."""


def run(job: SFTJob, runtime: Runtime) -> Metrics:
    """Look, prepare, train, publish. The heavy libraries are imported once the folders and the spec were looked at."""
    spec = job.spec
    checks.check_trackers(spec)
    base = checks.inspect_trainable(runtime.inputs["model"].path, "spec.model.uri", str(spec.model.uri), spec)
    adapter = adapters.open_adapter(runtime.inputs["adapter"].path, spec) if spec.adapter else None
    trained = rope.trained_with([(adapter.label, adapter.folder)] if adapter else [])
    base = rope.stretched(base, spec.model.rope_scaling, "spec.model.ropeScaling", trained)
    for line in rope.taken_over(base, spec.model.rope_scaling):
        runtime.progress.log(line)
    dtype = base.dtype if spec.dtype == "Auto" else spec.dtype
    sizes = memory_estimate.sizes(base, spec)
    libraries.quiet(**checks.optional_packages(spec))
    if spec.method != "Full":
        adapters.check_fits(base, spec, adapter)
    policy = training.resolve_policy(spec, runtime, base, sizes)

    from workloads.data import tokenizer_io
    from workloads.data.chat_templates import generation_prompt, loading

    tokenizer = tokenizer_io.load_tokenizer(base.folder)
    checks.check_tokenizer_and_length(base, tokenizer, spec.model, spec)
    template_file = runtime.inputs["templateFile"].path if spec.template_file else None
    template = generation_prompt.consistent(
        loading.load(spec.template, template_file, tokenizer, train_on_prompt=spec.dataset.train_on_prompt)
    )
    rows = _rows(spec, runtime, template)

    def load_model() -> PreTrainedModel | PeftModel:
        model = load.load_base(base, f"spec.model {spec.model.uri}", policy)
        return (
            model
            if spec.method == "Full"
            else adapters.attach(model, spec.lora, policy, adapter.folder if adapter else None)
        )

    def write_how_it_is_asked(folder: Path) -> None:
        tokenizer_io.save_tokenizer(tokenizer, base.folder, folder, template)
        _write_generation_config(folder, tokenizer, template.stop_ids)

    def save(trainer: Trainer, folder: Path) -> None:
        trainer.save_model(str(folder))
        if spec.method == "Full":
            shard_size = safetensors_io.byte_count(spec.max_shard_size)
            saved_dtype.convert(folder, dtype, runtime.progress.heartbeat, shard_size)
        else:
            adapters.name_base(folder, spec.model, base)
        write_how_it_is_asked(folder)

    def merge(trained: Path, folder: Path, metrics: Metrics) -> None:
        sample = [[int(token) for token in ids[:PROOF_TOKENS]] for ids in rows.train[:PROOF_ROWS]["input_ids"]]
        _merge(spec, runtime, base, trained, folder, dtype, sample, metrics)
        write_how_it_is_asked(folder)

    setup = training.TrainingSetup(
        train=rows.train.with_format("numpy"),
        validation=rows.validation.with_format("numpy") if rows.validation is not None else None,
        report=rows.report,
        pad_token_id=tokenizer.pad_token_id,
        load_model=load_model,
        save=save,
        sizes=sizes,
        dtype=dtype,
        merge=merge if spec.merge else None,
    )
    return training.train(job, runtime, policy, setup)


def _rows(spec: SFTSpec, runtime: Runtime, template: Template) -> prepared.Prepared:
    """The conversations of the data set, rendered by the template and tokenised."""
    from workloads.data import prepared

    runtime.progress.update(stage="Preparing")
    with runtime.stop.interruptible(), runtime.distributed.main_process_first():
        return prepared.datasets_for(
            spec,
            runtime.inputs,
            template,
            runtime.cache,
            spec.training.seed,
            log=runtime.progress.log,
            heartbeat=runtime.progress.heartbeat,
        )


def _merge(
    spec: SFTSpec,
    runtime: Runtime,
    base: Base,
    trained: Path,
    folder: Path,
    dtype: str,
    sample: list[list[int]],
    metrics: Metrics,
) -> None:
    """The base with the adapter in ``trained`` merged into it, saved in ``folder`` with the adapter and compared with both on ``sample``."""
    from workloads.models import lora_adapter, merge_lora

    runtime.progress.update(stage="Merging")
    (folder / "adapter").mkdir()
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        shutil.copyfile(trained / name, folder / "adapter" / name)
    adapter = lora_adapter.LoRAAdapter.open(folder / "adapter", "the adapter that was trained")
    target = merge_lora.Target(
        folder,
        dtype,
        shard_size=safetensors_io.byte_count(spec.max_shard_size),
        remedy=f"the adapter is whole at {spec.output.uri}: set merge to false, and it is the result, without training again",
        heartbeat=runtime.progress.heartbeat,
    )
    check = merge_lora.merge(base, [merge_lora.Step(adapter)], target, sample)
    metrics["mergeLogitDifference"] = check.logit_difference
    metrics["mergeTokenAgreement"] = check.token_agreement
    runtime.progress.log(
        f"merged in float32, saved as {target.dtype}: largest logit difference {check.logit_difference:.3g}, the same likeliest token at "
        f"{100 * check.token_agreement:.1f} % of the positions"
    )


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


if __name__ == "__main__":
    sys.exit(command.main(SFTJob, run))
