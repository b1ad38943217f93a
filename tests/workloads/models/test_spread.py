"""A model that one GPU is too small for lies on several of them, layer behind layer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workloads import tiny
from workloads.errors import OutOfMemory, SpecError
from workloads.models import inference, inspect, load, model_request
from workloads.models.load import LoadOptions
from workloads.models.model_request import ModelRequest
from workloads.system import hardware
from workloads.system.hardware import Device


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("spread") / "base", num_hidden_layers=4)


@pytest.fixture
def base(folder: Path) -> inspect.Base:
    return inspect.inspect_model(folder, "spec.model", "base")


def _inspected(folder: Path, monkeypatch: pytest.MonkeyPatch, memory: int, count: int) -> LoadOptions:
    device = Device("cuda", "a GPU", memory, capability=(9, 0), count=count)
    monkeypatch.setattr(hardware, "detect", lambda: device)
    return model_request.inspect_request(ModelRequest("model", "base", folder)).options


def _bytes(base: inspect.Base) -> int:
    """In bfloat16."""
    return 2 * sum(math.prod(shape) for shape in base.shapes.values())


@pytest.mark.parametrize(
    ("share", "count", "spread"),
    [
        pytest.param(1.5, 4, False, id="one is enough, though there are four"),
        pytest.param(0.9, 2, True, id="one is too small, two are not"),
        pytest.param(0.9, 1, False, id="there is one: loading tells"),
    ],
)
def test_a_model_is_spread_where_one_gpu_is_too_small(
    share: float, count: int, spread: bool, folder: Path, base: inspect.Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = int(share * _bytes(base))
    found = _inspected(folder, monkeypatch, memory, count).spread
    assert found == ({number: int(0.8 * memory) for number in range(count)} if spread else None)


def test_a_model_that_all_gpus_are_too_small_for_is_refused(
    folder: Path, base: inspect.Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError) as refused:
        _inspected(folder, monkeypatch, _bytes(base) // 4, 2)
    assert "and 2 GPUs have room for" in str(refused.value)
    assert str(refused.value).endswith("ask for more GPUs in pod.resources.limits, or set load.bits to 8 or 4")


def test_layers_are_placed_by_the_room_that_there_is(base: inspect.Base) -> None:
    """With a CPU for a device: transformers and accelerate place as they do on GPUs."""
    options = LoadOptions("fp32", "float32", None, "sdpa", spread={"cpu": 10 * _bytes(base)})
    loaded: Any = load.load_base(base, "base", options)
    found = inference.LoadedModel(loaded, None, 512, "Model", {})  # type: ignore[arg-type]
    assert found.layers == {torch.device("cpu"): 4}


def test_layers_that_would_lie_on_a_disk_are_refused(base: inspect.Base) -> None:
    options = LoadOptions("fp32", "float32", None, "sdpa", spread={"cpu": _bytes(base)})
    with pytest.raises(OutOfMemory, match="its layers do not fit on 1 devices"):
        load.load_base(base, "base", options)
