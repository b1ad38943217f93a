"""GPTQ by GPTQModel: its settings, its work layer by layer, and what it saves, made fit for other readers."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from alpaca_operator.api.quantize import QuantizeSpec
from workloads.errors import InputError, SpecError
from workloads.models import safetensors_io, weight_files
from workloads.models.inspect import Base

if TYPE_CHECKING:
    from workloads.data.conversations import Example

GROUP_SIZES: tuple[int, ...] = get_args(QuantizeSpec.model_fields["group_size"].annotation)
KEPT_BYTES = 2
"""Of a value that is not quantized: GPTQModel saves it as float16 or bfloat16."""
PACKED_BITS = 32
"""Quantized weights are packed into integers of this size."""
LLAMA_KIND = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` whose models are Llama's: blocks of linear layers under an output head that is one too."""
CONFIG = "quantize_config.json"
LOCAL = ("offload_to_disk", "offload_to_disk_path", "telemetry")
"""Entries of GPTQModel's `meta` that speak of the machine that quantized."""
SHARD_SIZE = 5 * 10**9
"""Bytes of the largest file of weights."""


@dataclass(frozen=True)
class QuantizedLayer:
    """What GPTQ says of one linear layer."""

    block: int
    name: str
    error: float | None
    """Squared error of its outputs on the calibration rows, mean over the weights; None where the rows gave too little to weigh by."""
    damping: float


def check(base: Base, label: str, spec: QuantizeSpec) -> None:
    """Refuse what cannot be quantized, by config.json and the headers of the weights alone."""
    check_kind(base, label)
    _check_groups(widths(base), label, spec)


def check_kind(base: Base, label: str) -> None:
    """Refuse what has no linear layers that are known here. Raises InputError, which begins with ``label``."""
    if "quantization_config" in base.config:
        how = base.config["quantization_config"].get("quant_method", "quantized")
        raise InputError(f"{label} is quantized already ({how}): name the model that it was made from")
    kind = base.config.get("model_type")
    if kind not in LLAMA_KIND:
        raise InputError(
            f"{label}: config.json says model_type {kind}: models of type {', '.join(LLAMA_KIND)} are quantized"
        )
    if not widths(base):
        raise InputError(f"{label} has no linear layers below model.layers: name a whole model")


def widths(base: Base) -> dict[str, set[int]]:
    """Numbers of inputs of the linear layers that are quantized, by the last part of their name."""
    found: dict[str, set[int]] = {}
    for name, shape in base.shapes.items():
        if is_quantized(name, shape):
            found.setdefault(name.split(".")[-2], set()).add(shape[1])
    return found


def is_quantized(name: str, shape: Sequence[int]) -> bool:
    """Whether a weight is that of a linear layer within a block."""
    return len(shape) == 2 and ".layers." in name and name.endswith(".weight")


def saved_bytes(base: Base, spec: QuantizeSpec) -> int:
    """What the weights of the result take: of a quantized layer with ``n`` inputs the packed weights, a scale and a packed zero point for
    each output of each group, and the group of each input (the layout of auto-gptq's QuantLinear); all else as it was, in 2 bytes."""
    total = 0
    for name, shape in base.shapes.items():
        if not is_quantized(name, shape):
            total += KEPT_BYTES * math.prod(shape)
            continue
        outputs, inputs = shape
        groups = 1 if spec.group_size == -1 else inputs // spec.group_size
        total += outputs * (inputs + groups) * spec.bits // 8 + KEPT_BYTES * outputs * groups + 4 * inputs
    return total


def _check_groups(inputs: Mapping[str, set[int]], label: str, spec: QuantizeSpec) -> None:
    every = sorted(set().union(*inputs.values()))
    divisor = math.gcd(*every)
    packed = PACKED_BITS if spec.bits == 3 else PACKED_BITS // spec.bits
    if divisor % packed:
        raise SpecError(
            f"bits {spec.bits}: {label} has layers with {_numbers(every)} inputs, and {spec.bits}-bit weights are packed by {packed}: set bits "
            "to 4 or 8, or name another model"
        )
    if spec.group_size == -1 or divisor % spec.group_size == 0:
        return
    odd = {name: width for name, width in inputs.items() if any(number % spec.group_size for number in width)}
    named = "; ".join(
        f"{', '.join(sorted(name for name, width in odd.items() if width == numbers))} with {_numbers(sorted(numbers))}"
        for numbers in sorted({frozenset(width) for width in odd.values()}, key=sorted)
    )
    fitting = [size for size in sorted(GROUP_SIZES, reverse=True) if size > 0 and divisor % size == 0]
    way_out = f"{' or '.join(map(str, fitting))}, or -1 for one scale a row" if fitting else "-1 for one scale a row"
    raise SpecError(
        f"groupSize {spec.group_size} does not divide the inputs of every layer of {label} ({named}): set it to {way_out}"
    )


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def settings(spec: QuantizeSpec, offload: Path) -> Any:
    """GPTQModel's own, from ours."""
    import torch
    from gptqmodel import QuantizeConfig

    return QuantizeConfig(
        bits=spec.bits,
        group_size=spec.group_size,
        sym=spec.sym,
        desc_act=spec.desc_act,
        act_group_aware=spec.orders_in_groups,
        damp_percent=spec.damp_percent,
        true_sequential=spec.true_sequential,
        device="cuda:0" if torch.cuda.is_available() else "cpu",
        pack_impl="original",  # the others compile their packing first; the result is the same byte for byte
        offload_to_disk=True,  # a model larger than memory: layers come from the files and go back to files
        offload_to_disk_path=str(offload),
    )


def quantize(
    folder: Path, spec: QuantizeSpec, rows: Sequence[Example], offload: Path, checkpoint: Any, listener: Any
) -> tuple[Any, list[QuantizedLayer]]:
    """The quantized model, as GPTQModel holds it, and what it says of its layers.

    ``listener`` is called at its steps (``subset_event``, ``layer_complete``) and may raise; ``checkpoint`` is GPTQModel's CheckpointConfig,
    or None.
    """
    from gptqmodel import GPTQModel
    from gptqmodel.looper import loop_processor

    loop_processor._PROJECT_LOG_DIR = (
        offload / "logs"
    )  # else a folder where the program was started, which may not be writable
    loaded = GPTQModel.load(str(folder), settings(spec, offload), trust_remote_code=False)
    loaded.layer_callback = loaded.subset_callback = listener
    calibration = [{"input_ids": row.ids.tolist(), "attention_mask": [1] * len(row.ids)} for row in rows]
    log = loaded.quantize(calibration, batch_size=1, calibration_data_min_length=1, checkpoint=checkpoint)
    found = [_layer(entry) for entry in log["gptq"]]
    return loaded, sorted(found, key=lambda layer: (layer.block, layer.name))


def _layer(entry: Mapping[str, Any]) -> QuantizedLayer:
    number = re.fullmatch(r"-?[0-9.]+(e-?[0-9]+)?", str(entry["loss"]))
    return QuantizedLayer(
        block=int(entry["layer"]),
        name=str(entry["module"]),
        error=float(entry["loss"]) if number else None,
        damping=float(entry["damp"]),
    )


def save(quantized: Any, scratch: Path, folder: Path, heartbeat: Callable[[], None]) -> None:
    """Weights and configurations, as GPTQModel, transformers, vLLM and auto-gptq read them; ``scratch`` is filled meanwhile.

    GPTQModel lays out the tensors of a run that went on from an earlier one in another order. They are written again in the order of
    their names, so that equal jobs make equal files.
    """
    quantized.save(str(scratch))
    made = weight_files.tensors_of(scratch, {}, "what GPTQModel saved")
    safetensors_io.write(
        folder,
        [safetensors_io.Planned(name, made[name].shape, made[name].dtype) for name in sorted(made)],
        SHARD_SIZE,
        lambda name: made[name].read(),
        lambda number, total: heartbeat(),
    )
    config = json.loads((scratch / CONFIG).read_text(encoding="utf-8"))
    meta = {key: value for key, value in config.get("meta", {}).items() if key not in LOCAL}
    # auto-gptq looks for these beside the bits, not in `meta`; vLLM and transformers pass over what they do not know.
    for_others = {
        "damp_percent": meta.get("damp_percent"),
        "true_sequential": meta.get("true_sequential"),
        "static_groups": bool(meta.get("static_groups")),
        "model_name_or_path": None,
        "model_file_base_name": "model",
    }
    config = {**for_others, **config, "meta": meta}
    _write(folder / CONFIG, config)
    whole = json.loads((scratch / "config.json").read_text(encoding="utf-8"))
    _write(folder / "config.json", {**whole, "quantization_config": config})
    shutil.rmtree(scratch)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def weight_bytes(folder: Path) -> int:
    """Of the weights in ``folder``."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
