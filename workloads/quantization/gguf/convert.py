"""The story of a QuantizeJob with ``format: GGUF``: look, draw, measure, write, measure again in llama.cpp, and publish."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from alpaca_operator.api.quantize import QuantizeJob
from workloads.models import inspect, rope
from workloads.quantization import prepare
from workloads.quantization.gguf import architecture, llama_cpp, model_file
from workloads.runtime.runtime import Metrics, Runtime
from workloads.storage.room import in_words

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from workloads.models.inspect import Base
    from workloads.quantization.prepare import Prepared

FILE = "model.gguf"


def run(job: QuantizeJob, runtime: Runtime) -> Metrics:
    """Raises GateFailed for a file that lost too much, or whose tokens are others."""
    from workloads.system import memory

    peak = memory.Peak()
    base = check(job, runtime)
    metrics: Metrics = {}
    with runtime.stop.interruptible():
        from workloads.models.configuration import configuration
        from workloads.quantization import calibration
        from workloads.quantization.gguf import likeness, modelfile
        from workloads.quantization.gguf import measure as by_llama_cpp
        from workloads.quantization.original import Made, Original

        prepared = prepare.read(job, runtime, base)
        config = configuration(base, f"spec.model {job.spec.model.uri}")
        original = Original.measured(job, runtime, base, prepared, peak)
    with runtime.output("GGUFModel", metrics) as folder, runtime.stop.interruptible():
        began = time.monotonic()
        runtime.progress.update(stage="Quantizing")
        _write(job, runtime, base, config, prepared, folder / FILE)
        minutes = (time.monotonic() - began) / 60
        runtime.progress.update(stage="Evaluating")
        positions, heartbeat = architecture.context(config), runtime.progress.heartbeat
        with llama_cpp.opened(folder / FILE, by_llama_cpp.longest(job.spec, prepared, positions)) as runner:
            texts = calibration.whole_texts(job.spec, runtime.inputs, prepared.template, heartbeat)
            tokens = likeness.compare(texts, prepared.template, runner)
            runtime.progress.log(str(tokens))
            after, fidelity = by_llama_cpp.measure(job.spec, prepared, runner, original.reference, positions, heartbeat)
        runtime.progress.log(f"after: {after}, {fidelity}")
        (folder / "Modelfile").write_text(modelfile.write(FILE, prepared.template, positions), encoding="utf-8")
        prepared.write_generation_config(base, folder)
        weights = sum(tensor.size for tensor in base.tensors.values()), (folder / FILE).stat().st_size
        original.publish(Made(after, fidelity, *weights, minutes, tokens=tokens), folder, metrics)
    return metrics


def check(job: QuantizeJob, runtime: Runtime) -> Base:
    """What config.json and the headers of the weights tell. Raises SpecError or InputError for what cannot be written here."""
    spec = job.spec
    llama_cpp.must_be_there()
    label = f"spec.model {spec.model.uri}"
    base = inspect.inspect_model(runtime.inputs["model"].path, "spec.model.uri", str(spec.model.uri))
    base = rope.stretched(base, spec.model.rope_scaling, "spec.model.ropeScaling")
    architecture.check(base, label)
    inspect.check_positions(base, spec.calibration.sequence_length, "calibration.sequenceLength")
    plain = model_file.plain_type(base, spec.gguf.type)
    working = 0 if plain == spec.gguf.type else model_file.expected_bytes(base, plain)
    runtime.must_have_room(
        result=model_file.expected_bytes(base, spec.gguf.type),
        checkpoints=working,
        written=f"the model as {plain}, of {in_words(working)}",
    )
    return base


def _write(
    job: QuantizeJob, runtime: Runtime, base: Base, config: PretrainedConfig, prepared: Prepared, path: Path
) -> None:
    """The file at ``path``: written as it is to be, or written plain and made smaller by llama.cpp."""
    from workloads.quantization.gguf import vocabulary

    label, wanted = f"spec.model {job.spec.model.uri}", job.spec.gguf.type
    prepared.template.install(prepared.tokenizer)
    words = vocabulary.of(prepared.tokenizer, prepared.template, base.rows, label)
    plain = model_file.plain_type(base, wanted)
    first = path if plain == wanted else runtime.checkpoints.own / f"{plain}.gguf"
    model_file.write(first, base, config, words, plain, label, runtime.progress.heartbeat)
    if first != path:
        runtime.progress.log(f"written as {plain}; llama.cpp makes {wanted} of it")
        llama_cpp.quantize(first, path, model_file.FILE_TYPES[wanted], runtime.progress.heartbeat)
        first.unlink()
