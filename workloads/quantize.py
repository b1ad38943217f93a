"""Quantization by GPTQ: ``python -m workloads.quantize quantize-job.yaml``.

Every field of QuantizeJob can be given or overridden as an option (``--groupSize 64``); ``--help`` lists them.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.quantize import QuantizeJob, QuantizeSpec
from workloads.errors import GateFailed, OutOfMemory
from workloads.models import inspect, rope
from workloads.models.inspect import GENERATION_CONFIG
from workloads.quantization.measure import measure
from workloads.quantization.prepare import Prepared, prepare
from workloads.quantization.resumable import open_store, quantize_layers
from workloads.runtime import command, exits
from workloads.runtime.runtime import Metrics, Runtime
from workloads.storage.room import in_words

if TYPE_CHECKING:
    from workloads.models.inspect import Base
    from workloads.quantization.fidelity import ModelScores, Reference
    from workloads.quantization.layers import LayerStore
    from workloads.quantization.report import Report

MEMORY_REMEDY = (
    "lower calibration.samples or calibration.sequenceLength, or ask for more memory in pod.resources.limits (the original is measured "
    "whole; layers are quantized one at a time)"
)


def run(job: QuantizeJob, runtime: Runtime) -> Metrics:
    """Look, draw, measure, quantize, measure again, and publish what keeps its gates."""
    try:
        return _run(job, runtime)
    except Exception as error:
        if isinstance(exits.explain(error), OutOfMemory):
            raise OutOfMemory(
                f"out of memory while {runtime.progress.current.stage.lower()}: {MEMORY_REMEDY}"
            ) from error
        raise


def _run(job: QuantizeJob, runtime: Runtime) -> Metrics:
    from workloads.models import libraries
    from workloads.system import memory

    peak = memory.Peak()
    base = _check(job, runtime)
    with runtime.stop.interruptible():
        libraries.prepare_gptqmodel()
        from workloads.quantization import fidelity, gptq
        from workloads.quantization.report import Report, warnings

        prepared = prepare(job, runtime, base)
        reference = fidelity.Reference(runtime.checkpoints.own / "reference")
        before = _measure_original(job, runtime, base, prepared, reference)

    began = time.monotonic()
    store = open_store(job, base, prepared, runtime)
    quantized, layers = quantize_layers(job, prepared, store, base, runtime)
    minutes = (time.monotonic() - began) / 60
    for line in warnings(layers, job.spec.damp_percent):
        runtime.progress.log(line)

    metrics: Metrics = {}
    with runtime.output("GPTQModel", metrics) as folder, runtime.stop.interruptible(_stopped_late(store)):
        _save(quantized, folder, base, prepared, runtime)
        del quantized
        runtime.progress.update(stage="Evaluating")
        after, likeness = measure(job.spec, runtime, prepared, folder, reference.compare)
        runtime.progress.log(f"after: {after}, {likeness}")
        report = Report(
            job=job,
            inputs=runtime.inputs,
            rows=prepared.rows,
            before=before,
            after=after,
            fidelity=likeness,
            layers=layers,
            bytes_before=gptq.weight_bytes(base.folder),
            bytes_after=gptq.weight_bytes(folder),
            minutes=minutes,
            peak_bytes=peak.resident(),
            peak_gpu_bytes=peak.gpu(),
        )
        metrics.update(report.metrics())
        _publish(report, folder, runtime, metrics)
    return metrics


def _check(job: QuantizeJob, runtime: Runtime) -> Base:
    """What config.json and the headers of the weights tell, before GPTQModel is imported, which takes seconds."""
    from workloads.quantization import gptq

    spec = job.spec
    base = inspect.inspect_model(runtime.inputs["model"].path, "spec.model.uri", str(spec.model.uri))
    gptq.check(base, f"spec.model {spec.model.uri}", spec)
    base = rope.stretched(base, spec.model.rope_scaling, "spec.model.ropeScaling")
    inspect.check_positions(base, spec.calibration.sequence_length, "calibration.sequenceLength")
    _must_have_room(runtime, spec, base)
    return base


def _must_have_room(runtime: Runtime, spec: QuantizeSpec, base: Base) -> None:
    """Raises SpecError where the volume of the output is too small for the result and for what GPTQModel writes on the way to it."""
    from workloads.quantization import gptq

    result = gptq.saved_bytes(base, spec)
    # Layers that wait for the end, those that a restart goes on from, and the result as GPTQModel lays it out: measured at 2.65 times the result.
    working = 3 * result
    runtime.must_have_room(result=result, checkpoints=working, written=f"working files of {in_words(working)}")


def _measure_original(
    job: QuantizeJob, runtime: Runtime, base: Base, prepared: Prepared, reference: Reference
) -> ModelScores:
    """The original where it lies, not what stands for it while it is quantized. Its head and its last hidden states go to ``reference``. Raises GateFailed for a model that is broken already."""
    runtime.progress.update(stage="Evaluating")
    before, _ = measure(job.spec, runtime, prepared, base.folder, reference.record, job.spec.model.rope_scaling)
    runtime.progress.log(f"before: {before}")
    if not math.isfinite(before.score.perplexity):
        raise GateFailed(
            f"perplexity before quantization is {before.score.perplexity}: the model gives no numbers on the measured rows; name "
            "one that was not saved broken, in a type that holds its values"
        )
    return before


def _save(quantized: Any, folder: Path, base: Base, prepared: Prepared, runtime: Runtime) -> None:
    """The quantized model into ``folder``, whole but for its report."""
    from workloads.data import tokenizer_io
    from workloads.models import libraries
    from workloads.quantization import gptq

    with libraries.silenced():
        gptq.save(quantized, runtime.checkpoints.own / "saved", folder, runtime.progress.heartbeat)
    tokenizer_io.save_tokenizer(prepared.tokenizer, base.folder, folder, prepared.template)
    _write_generation_config(folder, base, prepared)


def _publish(report: Report, folder: Path, runtime: Runtime, metrics: Metrics) -> None:
    """The report goes beside the model. Raises GateFailed where a gate is broken: then the report alone is kept."""
    from workloads.quantization import report_files

    if report.broken:
        rejected = runtime.checkpoints.own / "rejected"
        rejected.mkdir()
        report_files.write(report, rejected)
        where = runtime.reject(rejected)
        _keep_only_layers(runtime.checkpoints.own)
        raise GateFailed(f"{'; '.join(report.broken)}: nothing is published, the report is at {where}", metrics)
    report_files.write(report, folder)
    report_files.write_card(report, folder)
    runtime.progress.update(stage="Saving")


def _stopped_late(store: LayerStore | None) -> str:
    """What a signal ends with once the layers are done."""
    remedy = "run again to go on from the layers, which are kept" if store else "run again to start"
    return f"stopped while the result was saved and measured: {remedy}"


def _keep_only_layers(own: Path) -> None:
    """After a broken gate: finished layers stay for a run with other gates, the working files, as large as the model once more, go."""
    from workloads.quantization import layers

    for path in [*own.iterdir(), *(own / layers.STORE).glob("attempt-*")]:
        if path.name == layers.STORE:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _write_generation_config(folder: Path, base: Base, prepared: Prepared) -> None:
    """How the model is meant to be sampled: as the original, which GPTQModel would not leave as it is."""
    if (base.folder / GENERATION_CONFIG).is_file():
        shutil.copyfile(base.folder / GENERATION_CONFIG, folder / GENERATION_CONFIG)
        return
    from transformers import GenerationConfig

    GenerationConfig(
        bos_token_id=prepared.tokenizer.bos_token_id,
        eos_token_id=prepared.template.stop_ids,
        pad_token_id=prepared.tokenizer.pad_token_id,
    ).save_pretrained(str(folder))


if __name__ == "__main__":
    sys.exit(command.main(QuantizeJob, run))
