"""`workloads.quantization.layers`: whose finished layers a run takes over, and how often they are kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from workloads.quantization import layers
from workloads.quantization.layers import LayerStore


def store(runs: Path, run: str, made_from: str = "this", done: int = 0) -> LayerStore:
    """A run's store, with what GPTQModel leaves after ``done`` layers."""
    folder = runs / f"run-{run}" / layers.STORE
    found = LayerStore(folder, made_from, 1)
    found.begin()
    if done:
        manifest = json.dumps({"cursor": done, "run": run})
        name = hashlib.sha256(manifest.encode()).hexdigest()
        (folder / "objects" / name).write_text(manifest)
        (folder / "CURRENT").write_text(json.dumps({"version": 1, "generations": [name]}))
    return found


def test_the_run_that_came_furthest_is_gone_on_from(tmp_path: Path) -> None:
    store(tmp_path, "a", done=2)
    store(tmp_path, "b", done=5)
    store(tmp_path, "c", "something else", done=7)
    mine = LayerStore(tmp_path / "run-d" / layers.STORE, "this", 1)
    assert mine.take_over(tmp_path) == 5
    assert mine.done == 5
    objects = tmp_path / "run-d" / layers.STORE / "objects"
    (kept,) = objects.iterdir()
    assert kept.stat().st_nlink == 2, "an object is not copied where it can be linked"


def test_a_pod_whose_container_starts_again_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    store(tmp_path, "a", done=3)
    folder = tmp_path / "run-a" / layers.STORE
    (folder / "attempt-1").mkdir()
    assert LayerStore(folder, "this", 1).take_over(tmp_path) == 3
    assert not (folder / "attempt-1").exists(), "what it was about to keep is made again"
    assert LayerStore(folder, "something else", 1).take_over(tmp_path) == 0


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="killed before the first layer"),
        pytest.param("", id="an empty file"),
        pytest.param('{"generations": []}', id="no generation"),
        pytest.param('{"generations": ["0"]}', id="an object that is not there"),
    ],
)
def test_what_cannot_be_read_is_no_layer(tmp_path: Path, content: str | None) -> None:
    found = store(tmp_path, "a")
    if content is not None:
        (tmp_path / "run-a" / layers.STORE / "CURRENT").write_text(content)
    assert found.done == 0
    assert LayerStore(tmp_path / "run-b" / layers.STORE, "this", 1).take_over(tmp_path) == 0


@pytest.mark.parametrize(
    ("tokens", "width", "every"),
    [
        pytest.param(2_000, 64, 1, id="a small model"),
        pytest.param(512 * 2048, 4096, 8, id="Llama-2-7B on 512 rows of 2048 tokens: 8 GiB between two layers"),
    ],
)
def test_layers_are_kept_as_often_as_their_rows_are_small(tokens: int, width: int, every: int) -> None:
    assert layers.interval(tokens, width) == every


def test_a_folder_is_stood_for_by_a_second_name(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("weights")
    layers.stand_for(tmp_path / "blob", tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").is_symlink()
    assert (tmp_path / "model.safetensors").samefile(tmp_path / "blob")
