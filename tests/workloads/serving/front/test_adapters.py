"""An adapter that does not fit is refused before vLLM starts, as our own engine refuses it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alpaca_operator.api.chat import ChatDeployment
from tests.workloads import tiny
from tests.workloads.engine_process import ROOT, manifest
from tests.workloads.models.test_merge_lora import adapter_of
from workloads.errors import WorkloadError
from workloads.serving.front import adapters
from workloads.system.environment import Environment

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name

FILE = "adapter_model.safetensors"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def lora(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter_of(shelf / "base", tmp_path_factory.mktemp("made") / "lora")


@pytest.fixture
def changed(lora: Path, tmp_path: Path) -> Callable[[Callable[[Tensors], Tensors]], Path]:
    """A copy of the adapter with other weights."""

    def change(how: Callable[[Tensors], Tensors]) -> Path:
        folder = tmp_path / "changed"
        folder.mkdir()
        (folder / "adapter_config.json").write_bytes((lora / "adapter_config.json").read_bytes())
        save_file(how(load_file(lora / FILE)), folder / FILE)
        return folder

    return change


def chat(base: Path, adapter: Path, **model: Any) -> dict[str, Any]:
    named = {"model": {"uri": str(base), **model}, "adapters": [{"uri": str(adapter)}], "template": "FromModel"}
    return manifest("poet", engine="vLLM", **named)


def check(spec: dict[str, Any], tmp_path: Path) -> str:
    environment = Environment.read({"ALPACA_CACHE": str(tmp_path / "cache")})
    return adapters.check(ChatDeployment.model_validate(spec), environment, lambda: None)


def test_what_was_made_from_the_base_fits(shelf: Path, lora: Path, tmp_path: Path) -> None:
    assert check(chat(shelf / "base", lora), tmp_path) == f"spec.adapters[0] {lora} fits spec.model {shelf / 'base'}"


def of_another_name(held: Tensors) -> Tensors:
    return {name.replace("base_model.model.model", "base_model.model"): value for name, value in held.items()}


def half(held: Tensors) -> Tensors:
    return {name: value for name, value in held.items() if ".layers.0." not in name}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        pytest.param(of_another_name, "which nothing there is called: name the base", id="names that nothing has"),
        pytest.param(half, "it lacks 4 weights", id="half of the layers"),
    ],
)
def test_what_vllm_would_pass_over_is_refused(
    how: Callable[[Tensors], Tensors],
    words: str,
    shelf: Path,
    changed: Callable[[Callable[[Tensors], Tensors]], Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(WorkloadError) as refused:
        check(chat(shelf / "base", changed(how)), tmp_path)
    assert refused.value.exit_code == 65
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"spec.adapters[0] {tmp_path / 'changed'}: {FILE}")


def test_another_base_is_refused(lora: Path, tmp_path: Path) -> None:
    tiny.write_model(tmp_path / "wider", hidden_size=64)
    with pytest.raises(WorkloadError, match="name the base that the adapter was made from"):
        check(chat(tmp_path / "wider", lora), tmp_path)


def test_the_container_ends_with_its_last_word(
    shelf: Path, changed: Callable[[Callable[[Tensors], Tensors]], Path], tmp_path: Path
) -> None:
    (tmp_path / "chat.json").write_text(json.dumps(chat(shelf / "base", changed(half))), encoding="utf-8")
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ALPACA_")},
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "operator"))),
        "ALPACA_CACHE": str(tmp_path / "cache"),
        "ALPACA_TERMINATION_LOG": str(tmp_path / "last"),
    }
    command = [sys.executable, "-m", "workloads.adapter_check", "chat.json"]
    ended = subprocess.run(command, cwd=tmp_path, env=variables, check=False, capture_output=True)
    told = json.loads((tmp_path / "last").read_text(encoding="utf-8"))
    assert (ended.returncode, told["exitCode"], told["reason"]) == (65, 65, "InvalidData")
    assert "it lacks 4 weights" in told["message"]
