"""What this process computes on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from workloads.models import libraries
from workloads.system import hardware


@pytest.mark.parametrize("hip", [None, "7.1"])
def test_a_gpu_is_one_whoever_made_it_and_however_it_is_reached(
    monkeypatch: pytest.MonkeyPatch, hip: str | None
) -> None:
    """Neither WSL2 nor ROCm has the device files of NVIDIA's driver."""
    about = SimpleNamespace(name="a GPU", total_memory=1 << 34, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda rank: about)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(hardware, "is_installed", lambda package: True)
    hidden: dict[str, None] = {}
    monkeypatch.setattr(libraries, "sys", SimpleNamespace(modules=hidden))
    libraries.quiet()
    assert "torchao" in hidden
    assert not {"bitsandbytes", "deepspeed"} & hidden.keys()
    device = hardware.detect()
    assert (device.kind, device.count, device.flash_attention_3) == ("cuda", 2, hip is None)
