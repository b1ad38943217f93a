"""What is read before a model is: tokenizer, template and rows, and the folder that the model is loaded from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.quantize import QuantizeJob, QuantizeSpec
from workloads.models import inspect, safetensors_io
from workloads.models.inspect import GENERATION_CONFIG
from workloads.runtime.runtime import Runtime

if TYPE_CHECKING:
    from workloads.data.chat_templates.template import Template
    from workloads.models.inspect import Base
    from workloads.quantization.calibration import CalibrationRows


@dataclass(frozen=True)
class Prepared:
    """All that is read before a model is."""

    tokenizer: Any
    template: Template
    rows: CalibrationRows
    source: Path
    """The folder that the model is loaded from."""

    def write_generation_config(self, base: Base, folder: Path) -> None:
        """How the model is meant to be sampled, into ``folder``: as the original, which GPTQModel would not leave as it is."""
        if (base.folder / GENERATION_CONFIG).is_file():
            shutil.copyfile(base.folder / GENERATION_CONFIG, folder / GENERATION_CONFIG)
            return
        from transformers import GenerationConfig

        GenerationConfig(
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.template.stop_ids,
            pad_token_id=self.tokenizer.pad_token_id,
        ).save_pretrained(str(folder))


def prepare(job: QuantizeJob, runtime: Runtime, base: Base) -> Prepared:
    """Tokenizer, template and rows, and a folder that GPTQModel can load from. What lies in this run's folder from before it is new."""
    from workloads.quantization import gptq

    prepared = read(job, runtime, base)
    widest = max(set().union(*gptq.widths(base).values()))
    if prepared.rows.tokens < widest:
        runtime.progress.log(
            f"warning: {prepared.rows.tokens:,} tokens weigh the errors of layers with {widest:,} inputs: with fewer tokens than inputs the "
            "weighing is a guess; give more or longer rows"
        )
    folder = runtime.checkpoints.own / "model"
    return replace(prepared, source=_model_folder(base, job.spec, prepared.tokenizer, folder))


def read(job: QuantizeJob, runtime: Runtime, base: Base) -> Prepared:
    """Tokenizer, template and rows, and the model's own folder."""
    from workloads.data import tokenizer_io
    from workloads.data.chat_templates import loading
    from workloads.quantization import calibration

    spec = job.spec
    runtime.progress.update(stage="Preparing")
    tokenizer = tokenizer_io.load_tokenizer(base.folder)
    inspect.check_vocabulary(base, tokenizer, f"spec.model {spec.model.uri}")
    template_file = runtime.inputs["templateFile"].path if spec.template_file else None
    template = loading.load(spec.template, template_file, tokenizer)
    rows = calibration.draw(spec, runtime.inputs, template, heartbeat=runtime.progress.heartbeat)
    for line in rows.lines():
        runtime.progress.log(line)
    runtime.checkpoints.own.mkdir(parents=True, exist_ok=True)
    return Prepared(tokenizer, template, rows, base.folder)


def _model_folder(base: Base, spec: QuantizeSpec, tokenizer: Any, folder: Path) -> Path:
    """The model's folder, or one that stands for it: with the rope scaling of the spec, with a config.json that ties what the weights tie,
    and with no link that leads out of it, as GPTQModel wants it for going on."""
    outside = any(path.is_symlink() for path in base.files)
    if base.rope_scaling is None and bool(base.config.get("tie_word_embeddings")) == base.tied and not outside:
        return base.folder
    from workloads.data import tokenizer_io
    from workloads.models.configuration import configuration
    from workloads.quantization import layers

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    configuration(base, f"spec.model {spec.model.uri}").save_pretrained(folder)
    names = [path.name for path in base.files]
    for name in [*names, *([safetensors_io.INDEX] if len(names) > 1 else []), GENERATION_CONFIG]:
        if (base.folder / name).is_file():
            layers.stand_for((base.folder / name).resolve(), folder / name)
    tokenizer_io.save_tokenizer(tokenizer, base.folder, folder)
    return folder
