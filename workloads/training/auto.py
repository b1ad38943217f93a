"""What `Auto` means: device and model in, dtype, attention, checkpointing and optimizer out.

Pure: no torch, no clock, no environment. The device is described by whoever knows it (`workloads.system.hardware.detect`), so every row
of the table can be tested on a machine without a GPU. A value that the spec names is taken as it is, or refused with the
reason; it is never replaced in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

from workloads.errors import SpecError
from workloads.models.kernels import KERNELS
from workloads.models.load import Bits, LoadOptions
from workloads.system.hardware import AMPERE, HOPPER, NF4_BLOCK, Device
from workloads.training import method
from workloads.training.memory_estimate import Sizes, estimate, offloaded
from workloads.training.method import Method, Spec

HEADROOM = 0.9
"""Share of a GPU's memory that an estimate may fill: the rest goes to the CUDA context, cuBLAS and fragmentation."""

Precision = Literal["fp32", "bf16", "fp16"]
Weights = Literal["float32", "bfloat16", "float16"]
Checkpointing = Literal["Full", "None"]
Parallel = Literal["None", "Zero2", "Zero2Offload", "Zero3", "Zero3Offload", "Custom"]


@dataclass(frozen=True)
class Policy(LoadOptions):
    """How the job is going to train, every choice made."""

    gradient_checkpointing: Checkpointing
    optimizer: str
    parallel: Parallel
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


@dataclass(frozen=True)
class Choice:
    """What a row of the table fills in."""

    weights: Weights
    optimizer: str
    gradient_checkpointing: Checkpointing
    bits: Bits | None
    parallel: Parallel
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """What the rows of the table tell apart: the spec, the device and the model, with what the spec has settled already."""

    spec: Spec
    method: Method
    device: Device
    sizes: Sizes
    precision: Precision
    bits: Bits | None
    """What the spec asks to hold the base in."""
    parallel: Parallel
    """What the spec asks of DeepSpeed."""

    def bytes_needed(self, choice: Choice) -> int:
        """Bytes of device memory for one step."""
        return estimate(
            self.spec,
            self.sizes,
            self.precision,
            choice.bits,
            choice.weights,
            choice.gradient_checkpointing,
            choice.optimizer,
            offloads=choice.parallel == "Zero2Offload",
        )

    def fits(self, choice: Choice) -> bool:
        """Whether that leaves enough of the device's memory."""
        return self.bytes_needed(choice) <= self.device.memory * HEADROOM


def resolve(spec: Spec, device: Device, sizes: Sizes, kernels: Collection[str] = KERNELS) -> Policy:
    """Every `Auto` of ``spec.training`` resolved. Raises SpecError for a named value that this device, or the model, cannot honour:
    ``kernels`` are the kinds of attention that the model computes with."""
    how = method.of(spec)
    precision = _precision(spec, how, device)
    attention = _attention(spec, device, precision, kernels)
    bits = _bits(how, device, sizes)
    case = Case(spec, how, device, sizes, precision, bits, _parallel(spec, how))
    choice = _with_named_values(case, _row_of(case)(case))
    _refuse_vanishing_updates(case, choice)
    return Policy(
        precision=precision,
        weights=choice.weights,
        bits=choice.bits,
        attention=attention,
        gradient_checkpointing=choice.gradient_checkpointing,
        optimizer=choice.optimizer,
        parallel=choice.parallel,
        estimate=case.bytes_needed(choice),
        notes=(*choice.notes, *_memory_warning(case, choice)),
    )


# ---- the rows of the table ----


def _row_of(case: Case) -> Callable[[Case], Choice]:
    """The row that applies: the first, from the top."""
    if case.device.kind == "cpu":
        return _on_cpu
    if case.method.trains == "Everything":
        return _full_alone if case.parallel == "None" else _full_sharded
    if case.device.capability < AMPERE:
        return _adapter_on_old_gpu
    return _adapter_that_does_not_fit if _has_to_shrink(case) else _adapter


def _on_cpu(case: Case) -> Choice:
    """CPU: fp32, no checkpointing, adamw_torch; DeepSpeed only if asked."""
    return Choice("float32", "adamw_torch", "None", case.bits, case.parallel)


def _full_alone(case: Case) -> Choice:
    """Full, each GPU holding all of it: float32 weights, checkpointed, 8-bit Adam; where they do not fit, ZeRO-2 with offload."""
    optimizer = _optimizer(case, "adamw_8bit" if case.device.bitsandbytes else "adamw_torch_fused")
    wide = Choice("float32", optimizer, "Full", case.bits, case.parallel)
    if case.fits(wide):
        return wide
    narrow = replace(wide, weights=_in_precision(case))
    offloading = replace(narrow, optimizer="adamw_torch", parallel="Zero2Offload")
    if case.spec.training.optimizer != "Auto" or _why_not_offloaded(case, offloading):
        return narrow
    note = (
        f"{_gib(case.bytes_needed(wide))} are needed for float32 weights and {case.device.name} has {_gib(case.device.memory)}: they are kept in "
        f"main memory with the optimizer's state ({_gib(offloaded(case.sizes))}; DeepSpeed ZeRO-2, offload), and the GPU computes with a copy "
        f"in {narrow.weights}"
    )
    return replace(offloading, notes=(note,))


def _full_sharded(case: Case) -> Choice:
    """Full, under the DeepSpeed that was asked for: checkpointed, fused; its float32 weights are beside those that are computed with."""
    narrow = Choice(_in_precision(case), "adamw_torch_fused", "Full", case.bits, case.parallel)
    wide = replace(narrow, weights="float32")
    return wide if not _keeps_float32(case, narrow) and case.fits(wide) else narrow


def _adapter(case: Case) -> Choice:
    """≥ sm80, LoRA fits: bf16, fused, checkpointing off if the estimate fits, else full. Embeddings trained alone, too."""
    return _smallest_optimizer(case, case.bits)


def _adapter_that_does_not_fit(case: Case) -> Choice:
    """≥ sm80, LoRA does not fit: nf4, paged 8-bit."""
    _need_bitsandbytes(case.device, "a base that does not fit the GPU is held in 4 bits", case.method)
    note = (
        f"{_gib(case.bytes_needed(_checkpointed(case)))} are needed and {case.device.name} has "
        f"{_gib(case.device.memory)}: the base is held in 4 bits (nf4); set training.precision to bf16 to forbid it"
    )
    return replace(_smallest_optimizer(case, 4), notes=(note,))


def _adapter_on_old_gpu(case: Case) -> Choice:
    """< sm80: fp16 AMP, fused, checkpointed (a whole model in fp16 was refused before)."""
    return replace(_smallest_optimizer(case, case.bits), gradient_checkpointing="Full")


# ---- what the rows share ----


def _has_to_shrink(case: Case) -> bool:
    """Whether an adapter's base does not fit even when checkpointed, and nothing that was named forbids to hold it in 4 bits."""
    may_shrink = (
        case.method.trains == "Adapter"
        and case.spec.training.precision == "Auto"
        and case.parallel in ("None", "Zero2")  # a quantized base does not run under ZeRO-3
    )
    return case.bits is None and may_shrink and not case.fits(_checkpointed(case))


def _checkpointed(case: Case) -> Choice:
    """The least that an adapter needs while its base is not quantized."""
    return Choice(_in_precision(case), "adamw_torch_fused", "Full", None, case.parallel)


def _smallest_optimizer(case: Case, bits: Bits | None) -> Choice:
    """The fused optimizer, or, beside a quantized base that leaves it no room, the paged one; checkpointed if that does not fit either."""
    choice = Choice(_in_precision(case), "adamw_torch_fused", "None", bits, case.parallel)
    if bits is not None and case.parallel == "None" and not case.fits(choice):
        choice = replace(choice, optimizer="paged_adamw_8bit")
    return choice if case.fits(choice) else replace(choice, gradient_checkpointing="Full")


def _in_precision(case: Case) -> Weights:
    weights: dict[Precision, Weights] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    return weights[case.precision]


def _with_named_values(case: Case, choice: Choice) -> Choice:
    """The values that the spec names take the place of the table's."""
    named = case.spec.training.gradient_checkpointing
    return replace(
        choice,
        gradient_checkpointing=choice.gradient_checkpointing if named == "Auto" else named,
        optimizer=_optimizer(case, choice.optimizer),
    )


def _refuse_vanishing_updates(case: Case, choice: Choice) -> None:
    """Raises SpecError where a whole model's weights would be kept in half precision alone.

    A step of 2e-5 is less than half the distance between two bfloat16 numbers near 0.01: it is rounded away, each time, and most weights
    never move. Where the weights are float32, or DeepSpeed keeps float32 ones beside them, the steps add up.
    """
    if case.method.trains != "Everything" or choice.weights == "float32" or _keeps_float32(case, choice):
        return
    words = case.method.words
    if choice.parallel == "Custom":
        raise SpecError(
            f"deepspeed.config keeps no float32 weights beside those in {choice.weights}, in which small updates vanish: set "
            f"zero_optimization.stage or bf16.enabled in it, or set {words.adapter}"
        )
    named = case.spec.training.optimizer
    offloading = replace(choice, optimizer="adamw_torch", parallel="Zero2Offload")
    why = _why_not_offloaded(case, offloading) or f"training.optimizer {named} keeps its state on the GPU"
    preset = "Zero2" if case.fits(offloading) else "Zero3"
    raise SpecError(
        f"{words.whole} needs {_gib(case.bytes_needed(replace(choice, weights='float32')))} with float32 weights and {case.device.name} has "
        f"{_gib(case.device.memory)}; in {choice.weights} weights alone small updates vanish, and {why}: set {'' if named == 'Auto' else 'training.optimizer to Auto and '}"
        f"deepspeed to {{preset: {preset}, offload: CPU}} where there are {_gib(offloaded(case.sizes))} of main memory, or set {words.adapter}"
    )


def _keeps_float32(case: Case, choice: Choice) -> bool:
    """Whether DeepSpeed adds the steps up in float32 weights of its own: every stage of ZeRO does, and its bf16 mode."""
    if choice.parallel != "Custom":
        return choice.parallel != "None"
    assert case.spec.deepspeed is not None
    config = case.spec.deepspeed.config or {}
    stage = config.get("zero_optimization", {}).get("stage", 0)
    return stage != 0 or config.get("bf16", {}).get("enabled") in (True, "auto")


def _why_not_offloaded(case: Case, offloading: Choice) -> str | None:
    """What is in the way of keeping a whole model's float32 weights in main memory."""
    need, free = offloaded(case.sizes), case.device.main_memory
    if not case.device.deepspeed:
        return "the package deepspeed, which keeps float32 ones in main memory, is not installed"
    if need > free:
        return f"of main memory, which could take float32 ones, {_gib(free)} are free"
    if not case.fits(offloading):
        return f"the GPU needs {_gib(case.bytes_needed(offloading))} even while float32 ones are in main memory"
    return None


def _memory_warning(case: Case, choice: Choice) -> tuple[str, ...]:
    """A sentence for a run that is likely to run out of memory; what offloads or shards its weights is beyond the estimate."""
    need, device, words = case.bytes_needed(choice), case.device, case.method.words
    shrinks = choice.parallel in ("Zero2Offload", "Zero3", "Zero3Offload")
    if device.kind == "cpu" or need <= device.memory or shrinks:
        return ()
    return (
        f"about {_gib(need)} are expected to be needed and {device.name} has {_gib(device.memory)}: should it run out of "
        f"memory, lower training.batchSizePerDevice or {words.length}, or {words.smaller}",
    )


# ---- what the spec names, or the device decides alone ----


def _precision(spec: Spec, how: Method, device: Device) -> Precision:
    named = spec.training.precision
    if named == "Auto":
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
    if device.kind == "cpu" and named == "fp16":
        raise SpecError("training.precision fp16 needs a GPU and this machine has none: set it to Auto, fp32 or bf16")
    if device.kind == "cuda" and named == "bf16" and device.capability < AMPERE:
        raise SpecError(
            f"training.precision bf16 needs a GPU of sm80 or newer and {device.name} is sm{_sm(device)}: set it to Auto or fp16"
        )
    if named == "fp16" and how.trains == "Everything":
        raise SpecError(
            f"training.precision fp16 with {how.words.whole} trains to a loss of 0 (updates vanish in half precision): set precision "
            f"to bf16 or fp32, or {how.words.adapter}"
        )
    return named


def _attention(spec: Spec, device: Device, precision: str, kernels: Collection[str]) -> str:
    named = spec.training.attention
    if named == "Auto":
        reasons = {kernel: _obstacle(kernel, device, precision) for kernel in KERNELS}
        return next(kernel for kernel in KERNELS if kernel in kernels and reasons[kernel] is None)
    if named not in kernels:
        able = ", ".join(kernel for kernel in KERNELS if kernel in kernels)
        raise SpecError(f"training.attention is {named} and this model computes with {able} alone: set it to Auto")
    obstacle = _obstacle(named, device, precision)
    if obstacle is not None:
        raise SpecError(f"training.attention {named} {obstacle}")
    return named


def _obstacle(kernel: str, device: Device, precision: str) -> str | None:
    """Why a kernel cannot be used here, with the remedy; None where it can."""
    if kernel not in ("flash_attention_2", "flash_attention_3"):
        return None
    if device.kind == "cpu":
        return "needs a GPU and this machine has none: set it to Auto or sdpa"
    package, installed = (
        ("flash-attn-3", device.flash_attention_3)
        if kernel == "flash_attention_3"
        else ("flash-attn", device.flash_attention_2)
    )
    if kernel == "flash_attention_3" and device.capability[0] != HOPPER[0]:
        return f"runs on GPUs of sm{HOPPER[0]}{HOPPER[1]} (Hopper) alone and {device.name} is sm{_sm(device)}: set it to Auto"
    if device.capability < AMPERE:
        return f"needs a GPU of sm{AMPERE[0]}{AMPERE[1]} or newer and {device.name} is sm{_sm(device)}: set it to Auto"
    if not installed:
        return f"needs the package {package}, which is not installed: install it, or set it to Auto"
    if precision == "fp32":
        return "computes in half precision only: set training.precision to bf16, or attention to sdpa"
    return None


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


def _optimizer(case: Case, auto: str) -> str:
    named = case.spec.training.optimizer
    if named == "Auto":
        return auto
    if named == "paged_adamw_8bit" and case.device.kind == "cpu":
        raise SpecError(
            f"training.optimizer {named} pages GPU memory and this machine has no GPU: set it to Auto or adamw_8bit"
        )
    if named in ("adamw_8bit", "paged_adamw_8bit"):
        _need_bitsandbytes(case.device, f"training.optimizer {named} keeps 8-bit state", case.method)
    return named


def _parallel(spec: Spec, how: Method) -> Parallel:
    named = spec.deepspeed
    if named is None:
        return "None"
    if named.config is not None:
        stage = named.config.get("zero_optimization", {}).get("stage", 0)
        if how.bits is not None and stage == 3:
            raise SpecError(
                f"{how.words.quantized} does not run under ZeRO-3: set zero_optimization.stage in deepspeed.config to 2, or "
                f"{how.words.unquantized}"
            )
        return "Custom"
    offloads = named.offload == "CPU"
    if named.preset == "Zero3":
        return "Zero3Offload" if offloads else "Zero3"
    return "Zero2Offload" if offloads else "Zero2"


def _need_bitsandbytes(device: Device, why: str, how: Method) -> None:
    if not device.bitsandbytes:
        raise SpecError(
            f"{why}, for which the package bitsandbytes is not installed: install it, or {how.words.unquantized}"
        )


def _sm(device: Device) -> str:
    return "".join(map(str, device.capability))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
