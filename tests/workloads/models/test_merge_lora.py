"""A merged model is base plus adapter, whatever the adapter; a wrong merge is never published."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.workloads import tiny
from tests.workloads.runs import ROOT, Place, job
from workloads.errors import DataError, InputError, SpecError
from workloads.models import inspect, libraries, merge_lora, safetensors_io
from workloads.models.lora_adapter import LoRAAdapter

libraries.quiet()

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning",  # peft asks by the old name
    "ignore:Setting `save_embedding_layers` to `True`:UserWarning",
    "ignore:Input and output embeddings are no longer tied:UserWarning",
    "ignore:Model has `tie_word_embeddings=True`:UserWarning",
)

ROWS = [list(range(4, 60)), [5, 6, 7]]


@pytest.mark.parametrize(
    ("base", "lora"),
    [
        pytest.param("base", {}, id="LoRA"),
        pytest.param("base", {"useRslora": True}, id="rsLoRA"),
        pytest.param("base", {"useDora": True}, id="DoRA"),
        pytest.param("base", {"modulesToSave": ["embed_tokens", "lm_head"]}, id="with embeddings and head"),
        pytest.param("tied", {}, id="tied embeddings"),
        pytest.param("tied", {"modulesToSave": ["embed_tokens"]}, id="tied embeddings that are trained"),
        pytest.param("tied", {"modulesToSave": ["lm_head"]}, id="a tied head that is trained"),
    ],
)
def test_the_merged_model_is_base_plus_adapter(base: str, lora: dict[str, Any], place: Place) -> None:
    ended = place.run(
        # Three times the rate drives tied ends to where attention tips: one rounding of float32 moves a logit by 1e-3 there, on some machines.
        job(model={"uri": base}, merge=True, lora={"dropout": 0, **lora}, training={"epochs": 4, "learningRate": 1e-2})
    )
    assert ended.exit_code == 0, ended.text
    out = place.folder / "out"
    assert json.loads((out / "artifact.json").read_text())["kind"] == "Model"
    metrics = ended.termination["metrics"]
    assert metrics["mergeLogitDifference"] < 1e-4
    assert metrics["mergeTokenAgreement"] == 1.0
    # An independent look, by the plain libraries: the folder loads whole, and differs from the base as the adapter does.
    difference, moved = compare(place.folder / base, out)
    assert difference < 1e-4
    assert moved > 0.1, "the adapter has learnt something that could be lost"


def compare(base: Path, out: Path) -> tuple[float, float]:
    """Largest logit difference of the merged model from base + adapter, and from the base alone."""
    import warnings

    import peft
    import torch
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        merged = AutoModelForCausalLM.from_pretrained(out).eval()
        plain = AutoModelForCausalLM.from_pretrained(base).eval()
        ids = torch.arange(4, 104)[None]
        with torch.inference_mode():
            alone = plain(input_ids=ids).logits
            both = peft.PeftModel.from_pretrained(plain, str(out / "adapter")).eval()(input_ids=ids).logits
            found = merged(input_ids=ids).logits
    return float((found - both).abs().max()), float((found - alone).abs().max())


@pytest.mark.parametrize("spec", [{"merge": True}, {"method": "Full"}], ids=["merged", "trained whole"])
def test_a_result_has_the_dtype_of_its_base(place: Place, tmp_path: Path, spec: dict[str, Any]) -> None:
    """Also where config.json says another, as after a conversion by hand."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(place.folder / "base", dtype=torch.bfloat16).save_pretrained(half)
    config = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (half / name).write_bytes((place.folder / "base" / name).read_bytes())
    ended = place.run(job(model={"uri": "half"}, training={"maxSteps": 2}, **spec))
    assert ended.exit_code == 0, ended.text
    assert {value.dtype for value in load_file(place.folder / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((place.folder / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_wrong_merge_is_refused(place: Place, tmp_path: Path) -> None:
    done = place.run(job(training={"epochs": 4, "learningRate": 3e-2}))
    assert done.exit_code == 0, done.text
    base = inspect.inspect_model(place.folder / "base", "spec.model.uri", "base")
    adapter = LoRAAdapter.open(place.folder / "out", "out")
    for update in adapter.updates.values():
        update.scale = 0.0  # as if the scale of the update had been forgotten: the model without its adapter
    (tmp_path / "merged").mkdir()
    with pytest.raises(SpecError, match=r"logits differ from base \+ adapter by .*: nothing is published"):
        merge_lora.merge(
            base,
            [merge_lora.Step(adapter)],
            merge_lora.Target(tmp_path / "merged", "float32"),
            [list(range(4, 60))],
        )


def said_to_be_tied(base: Path, folder: Path) -> Path:
    """A copy of a model whose config.json ties the head that its files hold apart."""
    import shutil

    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    return folder


@pytest.mark.parametrize("lora", [{}, {"modules_to_save": ["lm_head"]}], ids=["LoRA", "a head saved whole"])
def test_a_head_that_config_json_denies_is_merged_with_the_rest(
    shelf: Path, tmp_path: Path, lora: dict[str, Any]
) -> None:
    import torch

    base = said_to_be_tied(shelf / "base", tmp_path / "base")
    adapter = adapter_of(shelf / "base", tmp_path / "adapter", **lora)
    proof = merge(base, [(adapter, 1.0)], tmp_path / "merged")
    assert proof.logit_difference < 1e-5
    expected = by_peft(loaded(shelf / "base"), adapter).state_dict()
    found = loaded(tmp_path / "merged")
    assert found.config.tie_word_embeddings is False
    assert [name for name, value in found.state_dict().items() if not torch.equal(value, expected[name])] == []


@pytest.mark.parametrize("lost", ["head", "layer"])
def test_a_mistake_in_our_own_reading_does_not_pass_the_proof(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """What the merge is held against is read by the libraries alone."""
    from workloads.models.weights import SavedWeights

    read = SavedWeights.read

    def wrong(self: SavedWeights, name: str) -> Any:
        if lost == "head" and name == self.head:
            return read(self, self.embedding)
        return read(self, name.replace("layers.1.", "layers.0.") if lost == "layer" else name)

    monkeypatch.setattr(SavedWeights, "read", wrong)
    adapter = adapter_of(shelf / "base", tmp_path / "adapter")
    with pytest.raises(SpecError, match=r"logits differ from base \+ adapter by .*: nothing is published"):
        merge(shelf / "base", [(adapter, 1.0)], tmp_path / "merged")


def adapter_of(base: Path, folder: Path, *, seed: int = 0, **lora: Any) -> Path:
    """An adapter in which every value was moved, made by PEFT."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **lora}
    combined = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(**settings))
    torch.manual_seed(seed)
    for parameter in combined.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    combined.save_pretrained(folder)
    return folder


def by_peft(base: Any, adapter: Path) -> Any:
    """PEFT's own merge, of the whole model in memory."""
    import peft

    return peft.PeftModel.from_pretrained(base, str(adapter)).merge_and_unload(safe_merge=True)


def loaded(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def merge(base: Path, adapters: list[tuple[Path, float]], folder: Path, **target: Any) -> merge_lora.MergeCheck:
    folder.mkdir()
    steps = [merge_lora.Step(LoRAAdapter.open(path, path.name, weight)) for path, weight in adapters]
    target = {"dtype": "float32", **target}
    return merge_lora.merge(
        inspect.inspect_model(base, "model", "base"), steps, merge_lora.Target(folder, **target), ROWS
    )


@pytest.mark.parametrize(
    ("base", "lora", "tied"),
    [
        pytest.param("base", {}, False, id="LoRA"),
        pytest.param("base", {"use_rslora": True}, False, id="rsLoRA"),
        pytest.param("base", {"use_dora": True}, False, id="DoRA"),
        pytest.param("base", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.*": 3}}, False, id="ranks and alphas by layer"),
        pytest.param("base", {"modules_to_save": ["embed_tokens", "lm_head"]}, False, id="embeddings saved whole"),
        pytest.param("base", {"modules_to_save": ["norm"]}, False, id="a norm saved whole"),
        pytest.param("base", {"target_modules": ["embed_tokens", "lm_head", "v_proj"]}, False, id="LoRA on embeddings"),
        pytest.param("base", {"target_modules": ["embed_tokens", "v_proj"], "use_dora": True}, False, id="DoRA on an embedding"),
        pytest.param("tied", {}, True, id="tied ends"),
        pytest.param("tied", {"modules_to_save": ["embed_tokens"]}, False, id="one of two tied ends saved whole"),
        pytest.param("tied", {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True, id="tied ends saved as one"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shard_size", [merge_lora.SHARD_SIZE, 20_000], ids=["one file", "many files"])
def test_the_weights_are_those_of_peft_bit_by_bit(
    shelf: Path, tmp_path: Path, base: str, lora: dict[str, Any], tied: bool, shard_size: int
) -> None:
    import torch

    adapter = adapter_of(shelf / base, tmp_path / "adapter", **lora)
    proof = merge(shelf / base, [(adapter, 1.0)], tmp_path / "merged", shard_size=shard_size)
    assert proof.logit_difference < 1e-5
    assert proof.token_agreement == 1.0
    assert (len(list((tmp_path / "merged").glob("*.safetensors"))) > 3) == (shard_size < merge_lora.SHARD_SIZE)
    expected = by_peft(loaded(shelf / base), adapter).state_dict()
    found = loaded(tmp_path / "merged").state_dict()
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is tied


@pytest.mark.parametrize(
    ("base", "lora"),
    [
        pytest.param("base", {}, id="LoRA"),
        pytest.param("base", {"use_dora": True}, id="DoRA"),
        pytest.param("base", {"modules_to_save": ["embed_tokens", "lm_head"]}, id="embeddings saved whole"),
        pytest.param("base", {"target_modules": ["embed_tokens", "v_proj"]}, id="LoRA on an embedding"),
        pytest.param("tied", {"modules_to_save": ["embed_tokens"]}, id="one of two tied ends saved whole"),
        pytest.param("tied", {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, id="tied ends saved as one"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("weight", [0.5, -1.0])
def test_a_weight_scales_the_update(
    shelf: Path, tmp_path: Path, base: str, lora: dict[str, Any], weight: float
) -> None:
    import torch

    adapter = adapter_of(shelf / base, tmp_path / "adapter", **lora)
    proof = merge(shelf / base, [(adapter, weight)], tmp_path / "merged")
    assert proof.logit_difference < 1e-4
    before = loaded(shelf / base).state_dict()
    whole = by_peft(loaded(shelf / base), adapter).state_dict()
    for name, found in loaded(tmp_path / "merged").state_dict().items():
        torch.testing.assert_close(found, before[name] + weight * (whole[name] - before[name]))


@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("together", [False, True], ids=["the head stays", "the head goes along"])
def test_lora_on_one_of_two_tied_ends(shelf: Path, tmp_path: Path, weight: float, together: bool) -> None:
    """PEFT computes it right and merges it wrong (its merge moves both ends, and warns), so the logits are held against it."""
    import torch

    lora = {"target_modules": ["embed_tokens", "v_proj"], "ensure_weight_tying": together}
    adapter = adapter_of(shelf / "tied", tmp_path / "adapter", **lora)
    proof = merge(shelf / "tied", [(adapter, weight)], tmp_path / "merged")
    assert proof.logit_difference < 1e-4
    assert proof.token_agreement == 1.0
    merged, before = loaded(tmp_path / "merged"), loaded(shelf / "tied").get_input_embeddings().weight
    assert not torch.equal(merged.get_input_embeddings().weight, before)
    assert torch.equal(merged.get_output_embeddings().weight, before) is not together
    assert merged.config.tie_word_embeddings is together


def test_adapters_are_merged_in_their_order(shelf: Path, tmp_path: Path) -> None:
    """As a chain makes them: the second was trained on what the first made of the base."""
    import torch

    first = adapter_of(shelf / "base", tmp_path / "first", modules_to_save=["embed_tokens", "lm_head"])
    second = adapter_of(shelf / "base", tmp_path / "second", seed=1, use_dora=True, modules_to_save=["lm_head"])
    proof = merge(shelf / "base", [(first, 1.0), (second, 1.0)], tmp_path / "merged")
    assert proof.logit_difference < 1e-5
    expected = by_peft(by_peft(loaded(shelf / "base"), first), second).state_dict()
    found = loaded(tmp_path / "merged").state_dict()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_sum_is_made_in_float32_whatever_is_saved(shelf: Path, tmp_path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import load_file

    adapter = adapter_of(shelf / "base", tmp_path / "adapter")
    merge(shelf / "base", [(adapter, 1.0)], tmp_path / "merged", dtype=dtype)
    expected = by_peft(loaded(shelf / "base"), adapter).state_dict()
    found = load_file(tmp_path / "merged" / "model.safetensors")
    for name, value in found.items():
        assert torch.equal(value, expected[name].to(getattr(torch, dtype))), name
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == dtype


def edited(folder: Path, **changes: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("base", "changes", "error", "message"),
    [
        pytest.param(
            {"num_hidden_layers": 1}, {}, DataError,
            "adapter: adapter_model.safetensors is not what adapter_config.json describes on the base: it has 4 weights "
            "(base_model.model.model.layers.1.mlp.down_proj.lora_A.weight, base_model.model.model.layers.1.mlp.down_proj.lora_B.weight, "
            "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight, …), which nothing there is called: name the base that the "
            "adapter was made from, or copy the adapter again",
            id="a base with fewer layers",
        ),
        pytest.param(
            {"hidden_size": 64}, {}, DataError,
            "adapter: its base_model.model.model.layers.0.mlp.down_proj.lora_B.weight has the shape 32×4 and would have 64×4 on the base: name "
            "the base that the adapter was made from",
            id="a wider base",
        ),
        pytest.param(
            {}, {"peft_type": "LOKR"}, InputError, "adapter is of type LOKR: only LoRA adapters are read", id="another method"
        ),
        pytest.param(
            {}, {"init_lora_weights": "pissa"}, SpecError,
            "adapter was initialised by pissa, which takes its start out of the base: save it again as a plain LoRA "
            "(path_initial_model_for_weight_conversion in PEFT)",
            id="PiSSA",
        ),
        pytest.param(
            {}, {"r": 8}, DataError,
            "adapter: adapter_config.json gives model.layers.0.mlp.down_proj the rank 8 and its matrices have 4 and 4: the two files do not "
            "belong together",
            id="a configuration of another adapter",
        ),
    ],
)  # fmt: skip
def test_an_adapter_of_something_else_is_refused(
    shelf: Path, tmp_path: Path, base: dict[str, int], changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    adapter = edited(adapter_of(shelf / "base", tmp_path / "adapter"), **changes)
    other = tiny.write_model(tmp_path / "other", **base)
    with pytest.raises(error) as caught:
        merge(other, [(adapter, 1.0)], tmp_path / "merged")
    assert str(caught.value) == message
    assert list((tmp_path / "merged").iterdir()) == []


def test_embeddings_of_another_vocabulary_are_refused(shelf: Path, tmp_path: Path) -> None:
    adapter = adapter_of(shelf / "base", tmp_path / "adapter", modules_to_save=["embed_tokens", "lm_head"])
    other = tiny.write_model(tmp_path / "other", vocab_size=300)
    with pytest.raises(DataError) as caught:
        merge(other, [(adapter, 1.0)], tmp_path / "merged")
    assert str(caught.value) == (
        "adapter was trained with a vocabulary of 256 rows and the base has 300: name the base that the adapter was made from, or put the "
        "tokenizer that it was trained with into its folder"
    )


def test_an_adapter_that_has_diverged_is_refused(shelf: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = adapter_of(shelf / "base", tmp_path / "adapter")
    values = load_file(adapter / "adapter_model.safetensors")
    next(value for name, value in values.items() if "layers.1.self_attn.q_proj.lora_B" in name)[0, 0] = float("nan")
    save_file(values, adapter / "adapter_model.safetensors")
    with pytest.raises(
        DataError, match=r"adapter makes model\.layers\.1\.self_attn\.q_proj\.weight infinite or not a number"
    ):
        merge(shelf / "base", [(adapter, 1.0)], tmp_path / "merged")


LARGE = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 12, "vocab_size": 4096}
MEASURED = """
import json
from pathlib import Path
from workloads.system import memory
from workloads.models import inspect, libraries, merge_lora
from workloads.models.lora_adapter import LoRAAdapter
libraries.quiet()

def merge(base, adapter, out):
    Path(out).mkdir()
    target = merge_lora.Target(Path(out), "bfloat16", shard_size=80_000_000, limit=1000.0)
    steps = [merge_lora.Step(LoRAAdapter.open(Path(adapter), adapter))]
    merge_lora.merge(inspect.inspect_model(Path(base), "model", base), steps, target, [[5, 6, 7, 8]])

merge("base", "small", "out-small")
libraries = memory.high_water()
merge("large", "adapter", "out")
print(json.dumps([libraries, memory.high_water()]))
"""


def test_a_large_model_is_merged_in_the_memory_of_one_of_its_files(shelf: Path, tmp_path: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    (tmp_path / "base").symlink_to(shelf / "base")
    adapter_of(shelf / "base", tmp_path / "small")
    config = LlamaConfig(**LARGE, num_attention_heads=8, num_key_value_heads=8, dtype="bfloat16")
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in LlamaForCausalLM(config).state_dict().items()}
    (tmp_path / "large").mkdir()
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path / "large")
    planned = [safetensors_io.Planned(name, shape, "bfloat16") for name, shape in shapes.items()]
    safetensors_io.write(
        tmp_path / "large",
        planned,
        80_000_000,
        lambda name: torch.randn(shapes[name]) * 0.02,
        lambda number, total: None,
    )
    (tmp_path / "adapter").mkdir()
    lora = [
        safetensors_io.Planned(
            f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{half}.weight", shape, "float32"
        )
        for layer in range(LARGE["num_hidden_layers"])
        for half, shape in (("A", (8, 1024)), ("B", (1024, 8)))
    ]
    made = {tensor.name: tensor.shape for tensor in lora}
    safetensors_io.write(
        tmp_path / "adapter", lora, 10**9, lambda name: torch.randn(made[name]), lambda number, total: None
    )
    (tmp_path / "adapter" / safetensors_io.WHOLE).rename(tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps(
            {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
        )
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    libraries, peak = json.loads(ran.stdout)
    sizes = [file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors")]
    assert len(sizes) > 3
    print(
        f"files {[size // 10**6 for size in sizes]} MB, libraries {libraries / 1e6:.0f} MB, peak above {(peak - libraries) / 1e6:.0f} MB"
    )
    assert peak - libraries < max(sizes)
