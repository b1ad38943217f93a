"""What was trained wider than its base is published in the base's type."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from workloads.models import inspect, libraries, saved_dtype

libraries.quiet()


def silent() -> None:
    pass


def test_a_model_is_converted_with_its_config(shelf: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shelf / "base", tmp_path / "base"))
    before = load_file(folder / "model.safetensors")
    assert saved_dtype.convert(folder, "bfloat16", silent)
    after = load_file(folder / "model.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name].bfloat16()) for name in before)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in (shelf / "base").iterdir())
    assert not saved_dtype.convert(folder, "bfloat16", silent), "nothing is left to do"


def test_shards_become_one_file_and_no_index(shelf: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shelf / "base", tmp_path / "base"))
    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(sorted(held))}
    for file in set(places.values()):
        save_file({name: held[name] for name in held if places[name] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert saved_dtype.convert(folder, "float16", silent)
    looked = inspect.inspect_model(folder, "spec.model.uri", "base")
    assert looked.dtype == "float16"
    assert looked.files == [folder / "model.safetensors"]
    assert looked.shapes == {name: tuple(value.shape) for name, value in held.items()}


def test_a_file_that_is_larger_than_asked_for_is_cut_into_several(shelf: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shelf / "base", tmp_path / "base"))
    held = load_file(folder / "model.safetensors")
    assert saved_dtype.convert(folder, "float32", silent, shard_size=50_000)
    looked = inspect.inspect_model(folder, "spec.model.uri", "base")
    assert len(looked.files) > 2
    assert looked.shapes == {name: tuple(value.shape) for name, value in held.items()}
    assert not saved_dtype.convert(folder, "float32", silent, shard_size=50_000), "nothing is left to do"
