"""Quantization by GPTQ, a file for llama.cpp, or 8-bit floats: ``python -m workloads.quantize quantize-job.yaml``.

Every field of QuantizeJob can be given or overridden as an option (``--groupSize 64``); ``--help`` lists them.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.quantize import QuantizeJob, QuantizeSpec
from workloads.errors import OutOfMemory
from workloads.models import inspect, rope
from workloads.quantization import fp8
from workloads.quantization.gguf import convert
from workloads.quantization.measure import measure
from workloads.quantization.prepare import Prepared, prepare
from workloads.quantization.resumable import open_store, quantize_layers
from workloads.runtime import command, exits
from workloads.runtime.runtime import Metrics, Runtime
from workloads.storage.room import in_words

if TYPE_CHECKING:
    from workloads.models.inspect import Base
    from workloads.quantization.layers import LayerStore

MEMORY_REMEDY = (
    "lower calibration.samples or calibration.sequenceLength, or ask for more memory in pod.resources.limits (the original is measured "
    "whole; layers are quantized one at a time)"
)


def run(job: QuantizeJob, runtime: Runtime) -> Metrics:
    """Look, draw, measure, quantize, measure again, and publish what keeps its gates."""
    try:
        return {"GPTQ": _run, "GGUF": convert.run, "FP8": fp8.run}[job.spec.format](job, runtime)
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
        from workloads.quantization import gptq
        from workloads.quantization.original import Made, Original
        from workloads.quantization.report import warnings

        prepared = prepare(job, runtime, base)
        original = Original.measured(job, runtime, base, prepared, peak)

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
        after, likeness = measure(job.spec, runtime, prepared, folder, original.reference.compare)
        runtime.progress.log(f"after: {after}, {likeness}")
        weights = gptq.weight_bytes(base.folder), gptq.weight_bytes(folder)
        original.publish(Made(after, likeness, *weights, minutes, layers=layers), folder, metrics)
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


def _save(quantized: Any, folder: Path, base: Base, prepared: Prepared, runtime: Runtime) -> None:
    """The quantized model into ``folder``, whole but for its report."""
    from workloads.data import tokenizer_io
    from workloads.models import libraries
    from workloads.quantization import gptq

    with libraries.silenced():
        gptq.save(quantized, runtime.checkpoints.own / "saved", folder, runtime.progress.heartbeat)
    tokenizer_io.save_tokenizer(prepared.tokenizer, base.folder, folder, prepared.template)
    prepared.write_generation_config(base, folder)


def _stopped_late(store: LayerStore | None) -> str:
    """What a signal ends with once the layers are done."""
    remedy = "run again to go on from the layers, which are kept" if store else "run again to start"
    return f"stopped while the result was saved and measured: {remedy}"


if __name__ == "__main__":
    sys.exit(command.main(QuantizeJob, run))
