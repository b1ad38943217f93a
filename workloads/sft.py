"""Supervised fine-tuning: ``python -m workloads.sft sft-job.yaml``.

Every field of SFTJob can be given or overridden as an option (``--training.epochs 1``); ``--help`` lists them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.sft import SFTJob, SFTSpec
from workloads.runtime import command
from workloads.runtime.runtime import Metrics, Runtime
from workloads.training import checks
from workloads.training import run as training
from workloads.training.tuned_model import TunedModel

if TYPE_CHECKING:
    from workloads.data import prepared
    from workloads.data.chat_templates.template import Template
    from workloads.training.trainer import Trainer

PROOF_ROWS = 8
PROOF_TOKENS = 256
"""How much of the training data a merged model is compared on."""


def run(job: SFTJob, runtime: Runtime) -> Metrics:
    """Look, prepare, train, publish."""
    spec = job.spec
    checks.check_trackers(spec)
    model = TunedModel.inspect(spec, runtime.inputs, runtime.progress.log, runtime.progress.heartbeat)
    policy = training.resolve_policy(spec, runtime, model.base, model.sizes)

    from workloads.data import tokenizer_io
    from workloads.data.chat_templates import loading

    tokenizer = tokenizer_io.load_tokenizer(model.base.folder)
    model.check_tokenizer(tokenizer)
    template_file = runtime.inputs["templateFile"].path if spec.template_file else None
    template = loading.load(
        spec.template, template_file, tokenizer, train_on_prompt=spec.dataset.train_on_prompt, mend=True
    )
    rows = _rows(spec, runtime, template)

    def write_how_it_is_asked(folder: Path) -> None:
        tokenizer_io.save_tokenizer(tokenizer, model.base.folder, folder, template)
        _write_generation_config(folder, tokenizer, template.stop_ids)

    def save(trainer: Trainer, folder: Path) -> None:
        trainer.save_model(str(folder))
        model.finish(folder)
        write_how_it_is_asked(folder)

    def merge(trained: Path, folder: Path, metrics: Metrics) -> None:
        runtime.progress.update(stage="Merging")
        sample = [[int(token) for token in ids[:PROOF_TOKENS]] for ids in rows.train[:PROOF_ROWS]["input_ids"]]
        check = model.merge(trained, folder, sample)
        metrics["mergeLogitDifference"] = check.logit_difference
        metrics["mergeTokenAgreement"] = check.token_agreement
        write_how_it_is_asked(folder)

    setup = training.TrainingSetup(
        train=rows.train.with_format("numpy"),
        validation=rows.validation.with_format("numpy") if rows.validation is not None else None,
        report=rows.report,
        pad_token_id=tokenizer.pad_token_id,
        load_model=lambda: model.load(policy),
        save=save,
        sizes=model.sizes,
        dtype=model.dtype,
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
