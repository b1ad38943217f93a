"""The story of a QuantizeJob with ``format: FP8``: look, draw, measure, write, measure again, and publish.

The weights of each output of a linear layer are 8-bit floats with a scale of their own, by the largest of them; vLLM brings its activations into
the same type, token by token, while it computes. No row weighs anything. The layout is compressed-tensors'
(https://github.com/vllm-project/compressed-tensors), which vLLM and transformers read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.quantize import QuantizeJob
from workloads.models import inspect, rope, safetensors_io
from workloads.models.safetensors_io import Planned
from workloads.quantization import gptq, prepare
from workloads.quantization.measure import measure
from workloads.runtime.runtime import Metrics, Runtime
from workloads.storage.room import in_words

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from workloads.models.inspect import Base
    from workloads.quantization.prepare import Prepared

LARGEST = 448.0
"""The largest number of float8_e4m3fn."""
SHARD_BYTES = 5_000_000_000
FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True}
QUANTIZATION: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**FLOAT8, "strategy": "channel", "dynamic": False},
            "input_activations": {**FLOAT8, "strategy": "token", "dynamic": True},
            "output_activations": None,
        }
    },
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
}
"""What config.json says of it."""


def run(job: QuantizeJob, runtime: Runtime) -> Metrics:
    """Raises GateFailed for a model that lost too much."""
    from workloads.system import memory

    peak = memory.Peak()
    base = check(job, runtime)
    metrics: Metrics = {}
    with runtime.stop.interruptible():
        from workloads.models.configuration import configuration
        from workloads.quantization.original import Made, Original

        prepared = prepare.read(job, runtime, base)
        config = configuration(base, f"spec.model {job.spec.model.uri}")
        original = Original.measured(job, runtime, base, prepared, peak)
    with runtime.output("FP8Model", metrics) as folder, runtime.stop.interruptible():
        began = time.monotonic()
        runtime.progress.update(stage="Quantizing")
        _write(folder, base, config, prepared, runtime)
        minutes = (time.monotonic() - began) / 60
        runtime.progress.update(stage="Evaluating")
        computed = runtime.checkpoints.own / "as-it-computes"
        _write_decoded(computed, folder, base, config, prepared, runtime)
        after, likeness = measure(job.spec, runtime, prepared, computed, original.reference.compare)
        runtime.progress.log(f"after: {after}, {likeness}")
        weights = gptq.weight_bytes(base.folder), gptq.weight_bytes(folder)
        original.publish(Made(after, likeness, *weights, minutes), folder, metrics)
    return metrics


def check(job: QuantizeJob, runtime: Runtime) -> Base:
    """What config.json and the headers of the weights tell. Raises SpecError or InputError for what cannot be written here."""
    spec = job.spec
    label = f"spec.model {spec.model.uri}"
    base = inspect.inspect_model(runtime.inputs["model"].path, "spec.model.uri", str(spec.model.uri))
    gptq.check_kind(base, label)
    base = rope.stretched(base, spec.model.rope_scaling, "spec.model.ropeScaling")
    inspect.check_positions(base, spec.calibration.sequence_length, "calibration.sequenceLength")
    decoded = sum(tensor.size for tensor in _decoded(base))
    runtime.must_have_room(
        result=sum(tensor.size for tensor in _planned(base)),
        checkpoints=decoded,
        written=f"the model as it computes, of {in_words(decoded)}",
    )
    return base


def kept_type(base: Base) -> str:
    """Of embedding, head and norms, and of the scales: the model's own 16 bits."""
    return "float16" if base.dtype == "float16" else "bfloat16"


def _scale_of(name: str) -> str:
    return f"{name}_scale"


def _planned(base: Base) -> list[Planned]:
    """The tensors of the result."""
    planned = []
    for name, tensor in base.tensors.items():
        if gptq.is_quantized(name, tensor.shape):
            planned.append(Planned(name, tensor.shape, "float8_e4m3fn"))
            planned.append(Planned(_scale_of(name), (tensor.shape[0], 1), kept_type(base)))
        else:
            planned.append(Planned(name, tensor.shape, kept_type(base)))
    return planned


def _decoded(base: Base) -> list[Planned]:
    return [Planned(name, tensor.shape, kept_type(base)) for name, tensor in base.tensors.items()]


def scale(weights: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """Of each row (outputs, inputs) of a layer, as (outputs, 1) in ``kind``. A row of zeros has 1."""
    import torch

    largest = weights.float().abs().amax(dim=1, keepdim=True)
    return torch.where(largest > 0, largest / LARGEST, 1.0).to(kind)


def _write(folder: Path, base: Base, config: PretrainedConfig, prepared: Prepared, runtime: Runtime) -> None:
    """The model, whole but for its report."""
    import torch

    kind = getattr(torch, kept_type(base))
    quantized = {name for name, tensor in base.tensors.items() if gptq.is_quantized(name, tensor.shape)}
    scales = {_scale_of(name): name for name in quantized}

    def make(name: str) -> torch.Tensor:
        if name in scales:
            return scale(base.tensors[scales[name]].read(), kind)
        values = base.tensors[name].read()
        if name not in quantized:
            return values
        # Beyond its range the type has no infinity, but "not a number".
        return (values.float() / scale(values, kind).float()).clamp(-LARGEST, LARGEST)

    _save(folder, _planned(base), make, base, prepared, runtime)
    _write_config(folder, config, kept_type(base), QUANTIZATION)


def _write_decoded(
    folder: Path, result: Path, base: Base, config: PretrainedConfig, prepared: Prepared, runtime: Runtime
) -> None:
    """``result`` as a model that every library loads: each weight is the number that its 8 bits and its scale stand for."""
    stored: dict[str, safetensors_io.Tensor] = {}
    for file in sorted(result.glob("*.safetensors")):
        stored |= safetensors_io.tensors(file, str(result))

    def make(name: str) -> torch.Tensor:
        values = stored[name].read().float()
        factor = stored.get(_scale_of(name))
        return values if factor is None else values * factor.read().float()

    folder.mkdir(parents=True, exist_ok=True)
    _save(folder, _decoded(base), make, base, prepared, runtime)
    _write_config(folder, config, kept_type(base), None)


def _save(
    folder: Path,
    planned: list[Planned],
    make: Callable[[str], torch.Tensor],
    base: Base,
    prepared: Prepared,
    runtime: Runtime,
) -> None:
    from workloads.data import tokenizer_io

    def beating(name: str) -> torch.Tensor:
        runtime.progress.heartbeat()
        return make(name)

    safetensors_io.write(folder, planned, SHARD_BYTES, beating, lambda number, total: None)
    tokenizer_io.save_tokenizer(prepared.tokenizer, base.folder, folder, prepared.template)
    prepared.write_generation_config(base, folder)


def _write_config(folder: Path, config: PretrainedConfig, kind: str, quantization: dict[str, Any] | None) -> None:
    config.save_pretrained(folder)
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | {"dtype": kind}
    if quantization is not None:
        content["quantization_config"] = quantization
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True) + "\n", encoding="utf-8")
