"""A folder is one model, whoever reads it: which files, which head, which type."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from workloads.errors import InputError, SpecError
from workloads.models import configuration, inspect, libraries, load, safetensors_io

libraries.quiet()

WHOLE = "model.safetensors"


def copy(shelf: Path, name: str, to: Path) -> Path:
    return Path(shutil.copytree(shelf / name, to / name))


def configured(folder: Path, **values: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def look(folder: Path) -> inspect.Base:
    return inspect.inspect_model(folder, "spec.model.uri", "base")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WHOLE)


def changed(tensors: dict[str, torch.Tensor], name: str = "model.norm.weight") -> dict[str, torch.Tensor]:
    return {**tensors, name: tensors[name] + 1}


def sharded(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """``tensors`` in two files and their index."""
    names = sorted(tensors)
    parts = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
    places = {name: file for file, held in parts.items() for name in held}
    (folder / safetensors_io.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def options() -> load.LoadOptions:
    return load.LoadOptions(precision="fp32", weights="float32", bits=None, attention="sdpa")


def test_a_head_of_its_own_is_kept_whatever_config_json_says(shelf: Path, tmp_path: Path) -> None:
    base = look(configured(copy(shelf, "base", tmp_path), tie_word_embeddings=True))
    assert not base.tied
    model = load.load_base(base, "base", options())
    assert model.config.tie_word_embeddings is False
    head = model.get_output_embeddings().weight
    assert torch.equal(head, weights(base.folder)["lm_head.weight"])
    assert head is not model.get_input_embeddings().weight


def test_an_embedding_that_is_stored_twice_is_one(shelf: Path, tmp_path: Path) -> None:
    folder = copy(shelf, "tied", tmp_path)
    held = weights(folder)
    save_file({**held, "lm_head.weight": held["model.embed_tokens.weight"].clone()}, folder / WHOLE)
    base = look(folder)
    assert base.tied
    assert "lm_head.weight" not in base.shapes
    model = load.load_base(base, "base", options())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_head_that_is_missing_is_not_guessed(shelf: Path, tmp_path: Path) -> None:
    folder = configured(copy(shelf, "tied", tmp_path), tie_word_embeddings=False)
    with pytest.raises(InputError) as caught:
        look(folder)
    assert str(caught.value) == (
        "spec.model.uri base: config.json unties the head from the embedding, and there is no lm_head.weight: copy the model again"
    )


def pickled(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    torch.save(tensors, folder / "pytorch_model.bin")


def stale_shard(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file({name: tensors[name] for name in ("model.norm.weight",)}, folder / "model-00003-of-00003.safetensors")


def meta(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    torch.save({"tok_embeddings.weight": tensors["model.embed_tokens.weight"]}, folder / "consolidated.00.pth")


def adapter(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.ones(2, 32)}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(
            lambda folder, held: pickled(folder, changed(held)),
            "the model.norm.weight of pytorch_model.bin is not that of model.safetensors",
            id="other weights, pickled",
        ),
        pytest.param(
            lambda folder, held: sharded(folder, changed(held)),
            "the model.norm.weight of model-00002-of-00002.safetensors is not that of model.safetensors",
            id="an index of other weights",
        ),
        pytest.param(
            lambda folder, held: stale_shard(folder, changed(held)),
            "the model.norm.weight of model-00003-of-00003.safetensors is not that of model.safetensors",
            id="a file of an earlier save",
        ),
        pytest.param(meta, "consolidated.00.pth holds tok_embeddings.weight, which model.safetensors does not have", id="Meta's form"),
        pytest.param(
            adapter,
            "adapter_model.safetensors holds base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight, which model.safetensors does not "
            "have",
            id="an adapter among them",
        ),
    ],
)  # fmt: skip
def test_two_sets_of_weights_in_one_folder_are_refused(
    shelf: Path, tmp_path: Path, write: Callable[[Path, dict[str, torch.Tensor]], None], message: str
) -> None:
    folder = copy(shelf, "base", tmp_path)
    write(folder, weights(folder))
    with pytest.raises(InputError) as caught:
        look(folder)
    assert str(caught.value) == (
        f"spec.model.uri base: two sets of weights lie in one folder: {message}: keep one of the two in the folder"
    )


def test_the_same_weights_in_several_forms_are_one_set(shelf: Path, tmp_path: Path) -> None:
    folder = copy(shelf, "tied", tmp_path)
    held = weights(folder)
    old = {f"model.layers.{number}.self_attn.rotary_emb.inv_freq": torch.ones(4) for number in range(2)}
    pickled(
        folder,
        {
            **{name: value.half() for name, value in held.items()},
            **old,
            "lm_head.weight": held["model.embed_tokens.weight"],
        },
    )
    sharded(folder, held)
    torch.save({"state": {}, "param_groups": [{"lr": 0.1}]}, folder / "optimizer.pt")
    (folder / "training_args.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (folder / "original").mkdir()
    meta(folder / "original", held)
    assert look(folder).files == [folder / WHOLE]


def test_an_index_that_is_not_its_files_is_refused(shelf: Path, tmp_path: Path) -> None:
    folder = copy(shelf, "base", tmp_path)
    held = weights(folder)
    (folder / WHOLE).unlink()
    sharded(folder, held)
    second = folder / "model-00002-of-00002.safetensors"
    save_file({name: value for name, value in load_file(second).items() if name != "model.norm.weight"}, second)
    with pytest.raises(
        InputError, match=r"says that model\.norm\.weight is in model-00002-of-00002\.safetensors, and 1 such weights"
    ):
        look(folder)
    save_file(
        changed(load_file(folder / "model-00001-of-00002.safetensors"), "lm_head.weight") | load_file(second), second
    )
    with pytest.raises(
        InputError, match=r"model-00001-of-00002\.safetensors and model-00002-of-00002\.safetensors hold two different"
    ):
        look(folder)


def test_a_model_that_would_load_another_one_is_refused(shelf: Path, tmp_path: Path) -> None:
    folder = copy(shelf, "base", tmp_path)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/another/model"}))
    with pytest.raises(
        InputError,
        match=r"holds a model and an adapter \(adapter_config\.json\): move the adapter into a folder of its own",
    ):
        look(folder)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_a_type_that_torch_does_not_know_names_the_file(shelf: Path, tmp_path: Path, key: str) -> None:
    folder = configured(copy(shelf, "base", tmp_path), **{key: "bfloat17"})
    with pytest.raises(InputError) as caught:
        look(folder)
    assert str(caught.value) == (
        f'spec.model.uri base: {folder}/config.json: {key} is "bfloat17", which torch does not know: set it to one of float32, bfloat16, '
        "float16"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"hidden_act": "silu9"}, "it knows no 'silu9'", id="an activation"),
        pytest.param({"num_attention_heads": "4"}, "expected int, got str", id="a number in quotes"),
        pytest.param({"rope_parameters": {"rope_type": "foo"}}, "it knows no 'foo'", id="a rope type"),
        pytest.param({"hidden_size": 64}, "is 256×32 in model.safetensors and 256×64 by config.json", id="another width"),
    ],
)  # fmt: skip
def test_a_config_that_describes_no_model_or_another_one_is_refused(
    shelf: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    base = look(configured(copy(shelf, "base", tmp_path), **values))
    with pytest.raises(InputError) as caught:
        configuration.configuration(base, "spec.model base")
    assert message in str(caught.value)


def test_what_is_wrong_with_the_loading_is_not_said_of_the_weights(shelf: Path) -> None:
    how = load.LoadOptions(precision="fp32", weights="float32", bits=None, attention="no_such_kernel")
    with pytest.raises(SpecError) as caught:
        load.load_base(look(shelf / "base"), "spec.model base", how)
    assert str(caught.value).startswith(
        "spec.model base cannot be loaded as it is to be (attention no_such_kernel, weights float32): "
    )


def test_the_type_of_a_base_is_that_of_its_weights(shelf: Path, tmp_path: Path) -> None:
    folder = configured(copy(shelf, "base", tmp_path), dtype="float32")
    held = {name: value if "norm" in name else value.bfloat16() for name, value in weights(folder).items()}
    save_file(held, folder / WHOLE)
    assert look(folder).dtype == "bfloat16"
