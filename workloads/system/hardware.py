"""What this process computes on, and which packages that use it are installed."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Literal

from workloads.system import memory


def detect() -> Device:
    """What this process trains on."""
    import torch

    if not has_gpu():
        return Device("cpu", "this machine's CPU", 0, bitsandbytes=is_installed("bitsandbytes"))
    properties = torch.cuda.get_device_properties(local_rank())
    return Device(
        kind="cuda",
        name=properties.name,
        memory=properties.total_memory,
        capability=(properties.major, properties.minor),
        count=torch.cuda.device_count(),
        flash_attention_2=is_installed("flash_attn"),
        flash_attention_3=is_installed("flash_attn_interface") and torch.version.hip is None,
        bitsandbytes=is_installed("bitsandbytes"),
        deepspeed=is_installed("deepspeed"),
        main_memory=memory.available(),
    )


def local_rank() -> int:
    """The number of this process's GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def has_gpu() -> bool:
    """Whether torch finds a GPU to compute on, whoever made it and however its driver is reached (WSL2 has no device files of NVIDIA's)."""
    import torch

    return torch.cuda.is_available()


AMPERE = (8, 0)
"""The first compute capability with bfloat16 and FlashAttention-2."""


HOPPER = (9, 0)
"""The compute capability that FlashAttention-3 is written for, and the only one: its kernels do not run on what came after."""


NF4_BLOCK = 64
"""bitsandbytes quantizes weights in blocks of this many; its CPU kernels refuse a width that is no multiple."""


@dataclass(frozen=True)
class Device:
    """What one process trains on."""

    kind: Literal["cpu", "cuda"]
    name: str
    memory: int
    """Bytes of GPU memory; 0 for a CPU, whose memory the container's limit bounds, not us."""
    capability: tuple[int, int] = (0, 0)
    count: int = 0
    """GPUs of this machine that a process may use."""
    flash_attention_2: bool = False
    flash_attention_3: bool = False
    """Whether the package is installed, and torch is CUDA's."""
    bitsandbytes: bool = True
    deepspeed: bool = True
    main_memory: int = 1 << 60
    """Bytes of main memory that the process may still take."""
