"""What `Auto` means: device and model in, dtype, attention, checkpointing and optimizer out.

Pure: no torch, no clock, no environment. The device is described by whoever knows it (`workloads.system.hardware.detect`), so every row
of the table can be tested on a machine without a GPU. A value that the spec names is taken as it is, or refused with the
reason; it is never replaced in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from workloads.errors import SpecError
from workloads.models.load import Bits, LoadOptions
from workloads.system.hardware import AMPERE, HOPPER, NF4_BLOCK, Device
from workloads.training import method
from workloads.training.memory_estimate import Sizes, estimate
from workloads.training.method import Method, Spec

HEADROOM = 0.9
"""Share of a GPU's memory that an estimate may fill: the rest goes to the CUDA context, cuBLAS and fragmentation."""


@dataclass(frozen=True)
class Policy(LoadOptions):
    """How the job is going to train, every choice made."""

    gradient_checkpointing: Literal["Full", "None"]
    optimizer: str
    parallel: Literal["None", "Zero2", "Zero2Offload", "Zero3", "Zero3Offload", "Custom"]
    estimate: int
    """Bytes of device memory that a step is expected to need."""
    notes: tuple[str, ...] = ()
    """Sentences for the user: what was chosen for them and why."""

    def as_dict(self) -> dict[str, Any]:
        """For status.resolvedPolicy, the log and the model card; camelCase like the spec."""
        return {
            "precision": self.precision,
            "weights": {4: "nf4", 8: "int8"}.get(self.bits or 0, self.weights),
            "attention": self.attention,
            "gradientCheckpointing": self.gradient_checkpointing,
            "optimizer": self.optimizer,
            "parallel": self.parallel,
            "estimatedMemoryGiB": round(self.estimate / 2**30, 2),
        }


def resolve(spec: Spec, device: Device, sizes: Sizes) -> Policy:
    """Every `Auto` of ``spec.training`` resolved. Raises SpecError for a named value that this device cannot honour."""
    how = method.of(spec)
    precision = _precision(spec, how, device)
    attention = _attention(spec, device, precision)
    bits = _bits(how, device, sizes)
    notes: list[str] = []

    def bytes_needed(bits: Bits | None, weights: str, checkpointing: str, optimizer: str) -> int:
        return estimate(spec, sizes, precision, bits, weights, checkpointing, optimizer)

    def fits(bits: Bits | None, weights: str, checkpointing: str, optimizer: str) -> bool:
        return bytes_needed(bits, weights, checkpointing, optimizer) <= device.memory * HEADROOM

    asked = spec.training.gradient_checkpointing
    parallel = _parallel(spec, how)
    if device.kind == "cpu":
        weights, checkpointing = "float32", "None"
        optimizer = "adamw_torch"
    elif how.trains == "Everything":
        checkpointing = "Full"
        optimizer = "adamw_8bit" if device.bitsandbytes and parallel == "None" else "adamw_torch_fused"
        # Small updates vanish in bfloat16 weights, so float32 ones are kept wherever they fit.
        weights = "float32" if fits(None, "float32", checkpointing, optimizer) else _half(precision)
        if parallel == "None" and spec.training.optimizer == "Auto" and not fits(None, weights, "Full", optimizer):
            parallel, optimizer = "Zero2Offload", "adamw_torch"
            notes.append(
                f"{_gib(bytes_needed(None, weights, 'Full', 'adamw_8bit'))} are needed and {device.name} has "
                f"{_gib(device.memory)}: the optimizer's state is kept in main memory (DeepSpeed ZeRO-2, offload)"
            )
    else:
        weights, optimizer = _half(precision), "adamw_torch_fused"
        old_gpu = device.capability < AMPERE
        short = bits is None and not fits(None, weights, "Full", "adamw_torch_fused")
        may_shrink = how.trains == "Adapter" and spec.training.precision == "Auto" and parallel in ("None", "Zero2")
        if short and may_shrink and not old_gpu:
            _need_bitsandbytes(device, "a base that does not fit the GPU is held in 4 bits", how)
            bits = 4
            notes.append(
                f"{_gib(bytes_needed(None, weights, 'Full', optimizer))} are needed and {device.name} has "
                f"{_gib(device.memory)}: the base is held in 4 bits (nf4); set training.precision to bf16 to forbid it"
            )
        if bits is not None and parallel == "None" and not fits(bits, weights, "None", "adamw_torch_fused"):
            optimizer = "paged_adamw_8bit"
        checkpointing = "None" if not old_gpu and fits(bits, weights, "None", optimizer) else "Full"

    if asked != "Auto":
        checkpointing = asked
    optimizer = _optimizer(spec, how, device, optimizer)
    need = bytes_needed(bits, weights, checkpointing, optimizer)
    if device.kind == "cuda" and need > device.memory and parallel not in ("Zero2Offload", "Zero3", "Zero3Offload"):
        notes.append(
            f"about {_gib(need)} are expected to be needed and {device.name} has {_gib(device.memory)}: should it run out of "
            f"memory, lower training.batchSizePerDevice or {how.words.length}, or {how.words.smaller}"
        )
    return Policy(
        precision=precision,
        weights=weights,  # type: ignore[arg-type]
        bits=bits,
        attention=attention,
        gradient_checkpointing=checkpointing,  # type: ignore[arg-type]
        optimizer=optimizer,
        parallel=parallel,
        estimate=need,
        notes=tuple(notes),
    )


def _precision(spec: Spec, how: Method, device: Device) -> Literal["fp32", "bf16", "fp16"]:
    asked = spec.training.precision
    if asked == "Auto":
        if device.kind == "cpu":
            return "fp32"
        if device.capability >= AMPERE:
            return "bf16"
        # Float16 weights under plain SGD steps of 1e-5 round to nothing: the loss reads 0 and the run "succeeds".
        if how.trains == "Everything":
            raise SpecError(
                f"{how.words.whole} needs bf16, which {device.name} (sm{_sm(device)}) lacks: set {how.words.adapter}, or "
                "training.precision to fp32 where memory allows it"
            )
        return "fp16"
    if device.kind == "cpu" and asked == "fp16":
        raise SpecError("training.precision fp16 needs a GPU and this machine has none: set it to Auto, fp32 or bf16")
    if device.kind == "cuda" and asked == "bf16" and device.capability < AMPERE:
        raise SpecError(
            f"training.precision bf16 needs a GPU of sm80 or newer and {device.name} is sm{_sm(device)}: set it to Auto or fp16"
        )
    if asked == "fp16" and how.trains == "Everything":
        raise SpecError(
            f"training.precision fp16 with {how.words.whole} trains to a loss of 0 (updates vanish in half precision): set precision "
            f"to bf16 or fp32, or {how.words.adapter}"
        )
    return asked


def _attention(spec: Spec, device: Device, precision: str) -> str:
    asked = spec.training.attention
    flash_3 = device.flash_attention_3 and device.capability >= HOPPER
    flash_2 = device.flash_attention_2 and device.capability >= AMPERE
    if asked == "Auto":
        if precision == "fp32":
            return "sdpa"  # both FlashAttentions compute in half precision only
        return "flash_attention_3" if flash_3 else "flash_attention_2" if flash_2 else "sdpa"
    if asked in ("flash_attention_2", "flash_attention_3"):
        field = f"training.attention {asked}"
        if device.kind == "cpu":
            raise SpecError(f"{field} needs a GPU and this machine has none: set it to Auto or sdpa")
        need, package, installed = (
            (HOPPER, "flash-attn-3", device.flash_attention_3)
            if asked == "flash_attention_3"
            else (AMPERE, "flash-attn", device.flash_attention_2)
        )
        if device.capability < need:
            raise SpecError(
                f"{field} needs a GPU of sm{need[0]}{need[1]} or newer and {device.name} is sm{_sm(device)}: set it to Auto"
            )
        if not installed:
            raise SpecError(
                f"{field} needs the package {package}, which is not installed: install it, or set it to Auto"
            )
        if precision == "fp32":
            raise SpecError(
                f"{field} computes in half precision only: set training.precision to bf16, or attention to sdpa"
            )
    return asked


def _bits(how: Method, device: Device, sizes: Sizes) -> Bits | None:
    bits = how.bits
    if bits is None:
        return None
    _need_bitsandbytes(device, f"{how.words.quantized} holds the base in {bits} bits", how)
    if device.kind == "cpu" and bits == 4:
        odd = sorted({width for width in sizes.widths if width % NF4_BLOCK})
        if odd:
            raise SpecError(
                f"{how.words.quantized} in 4 bits on a CPU needs layer widths that {NF4_BLOCK} divides, and this model has "
                f"{', '.join(map(str, odd))}: set load.bits to 8, or {how.words.unquantized}"
            )
    return bits


def _optimizer(spec: Spec, how: Method, device: Device, auto: str) -> str:
    asked = spec.training.optimizer
    if asked == "Auto":
        return auto
    if asked == "paged_adamw_8bit" and device.kind == "cpu":
        raise SpecError(
            f"training.optimizer {asked} pages GPU memory and this machine has no GPU: set it to Auto or adamw_8bit"
        )
    if asked in ("adamw_8bit", "paged_adamw_8bit"):
        _need_bitsandbytes(device, f"training.optimizer {asked} keeps 8-bit state", how)
    return asked


def _parallel(spec: Spec, how: Method) -> Any:
    asked = spec.deepspeed
    if asked is None:
        return "None"
    if asked.config is not None:
        stage = asked.config.get("zero_optimization", {}).get("stage", 0)
        if how.bits is not None and stage == 3:
            raise SpecError(
                f"{how.words.quantized} does not run under ZeRO-3: set zero_optimization.stage in deepspeed.config to 2, or "
                f"{how.words.unquantized}"
            )
        return "Custom"
    return f"{asked.preset}{'Offload' if asked.offload == 'CPU' else ''}"


def _need_bitsandbytes(device: Device, why: str, how: Method) -> None:
    if not device.bitsandbytes:
        raise SpecError(
            f"{why}, for which the package bitsandbytes is not installed: install it, or {how.words.unquantized}"
        )


def _half(precision: str) -> str:
    return {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[precision]


def _sm(device: Device) -> str:
    return "".join(map(str, device.capability))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
