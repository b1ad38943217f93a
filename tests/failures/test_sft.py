"""What people report of fine-tuning scripts, and what is told here instead: exit code, and the whole line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.workloads import tiny
from tests.workloads.runs import Ended, Place, job
from workloads.models import libraries

libraries.quiet()


def own(place: Place, name: str = "own", source: str = "base") -> Path:
    """A copy of a model that the test may spoil."""
    folder = place.folder / name
    shutil.copytree(place.folder / source, folder)
    return folder


def refused(place: Place, exit_code: int, **spec: Any) -> str:
    """The reason that a run gives on standard error, in the one line that the status shows."""
    ended = place.run(job(**spec))
    assert ended.exit_code == exit_code, ended.text
    assert not (place.folder / "out").exists()
    message = ended.termination["message"]
    assert message in ended.text
    assert "\n" not in message
    return str(message)


def config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# ---- the model ----


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def shard_missing(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def own_code(folder: Path) -> None:
    config(folder, model_type="ours", auto_map={"AutoModelForCausalLM": "ours.Ours"}, architectures=["Ours"])


def quantized(folder: Path) -> None:
    config(folder, quantization_config={"quant_method": "gptq", "bits": 4})


def one_layer_more(folder: Path) -> None:
    config(folder, num_hidden_layers=3)


def more_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    size = len(tokenizer["model"]["vocab"])
    tokenizer["model"]["vocab"] |= {f"new{number}": size + number for number in range(7)}
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(
            no_weights, "has a config.json and no weights (model.safetensors): it has config.json", id="no weights"
        ),
        pytest.param(
            pickled,
            "has weights as .bin (pickle) only, which can run code when loaded: convert them",
            id="pickled weights",
        ),
        pytest.param(
            cut_short, "model.safetensors is damaged (it has 100000 bytes and its header asks for", id="cut short"
        ),
        pytest.param(no_config, "has no config.json", id="no config.json"),
        pytest.param(
            shard_missing,
            "model.safetensors.index.json names 2 files and model-00002-of-00002.safetensors is missing: copy the model again",
            id="a shard is missing",
        ),
        pytest.param(no_tokenizer, "no tokenizer in", id="no tokenizer"),
        pytest.param(
            own_code, "Models that bring their own code are not loaded: use a Llama architecture", id="own code"
        ),
        pytest.param(
            quantized,
            "spec.model.uri own is quantized already (gptq), which cannot be trained: name the unquantized model, and set method to "
            "QLoRA to hold it in 4 bits",
            id="quantized already",
        ),
        pytest.param(
            one_layer_more,
            "9 weights that config.json asks for are not in the files (model.layers.2.input_layernorm.weight, ",
            id="config.json of another model",
        ),
        pytest.param(
            more_tokens,
            "spec.model own: its tokenizer has ids up to 262 and its embedding 256 rows, so ids from 256 on have no vector: put the "
            "tokenizer there that the model was trained with",
            id="a tokenizer of another model",
        ),
    ],
)
def test_a_model_that_is_not_whole_is_an_input_error_that_says_what_is_there(
    spoil: Callable[[Path], None], message: str, place: Place
) -> None:
    spoil(own(place))
    assert message in refused(place, 66, model={"uri": "own"})


def test_a_model_that_is_not_there_is_told_with_what_is(place: Place) -> None:
    message = refused(place, 66, model={"uri": "bsae"})
    assert message.startswith("spec.model.uri: bsae")
    assert "base" in message.removeprefix("spec.model.uri: bsae")


def test_a_sequence_beyond_the_positions_is_refused_unless_they_are_stretched(place: Place) -> None:
    assert refused(place, 64, training={"sequenceLength": 2048}) == (
        "training.sequenceLength 2048 is beyond the 512 positions of the model: lower it to 512, or set model.ropeScaling.factor to 4 "
        "or more"
    )
    assert refused(place, 64, training={"sequenceLength": 2048}, model={"ropeScaling": {"factor": 2}}) == (
        "training.sequenceLength 2048 is beyond the 1024 positions of the model with its ropeScaling: lower it to 1024, or set "
        "model.ropeScaling.factor to 4 or more"
    )


def test_a_model_without_a_chat_template_asks_for_a_named_one(place: Place) -> None:
    message = refused(place, 64, template="FromModel")
    assert message.startswith(
        "template: FromModel, but the model's tokenizer has no chat template: set template to HumanAssistant"
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param(
            {"training": {"precision": "fp16"}},
            "training.precision fp16 needs a GPU and this machine has none: set it to Auto, fp32 or bf16",
            id="float16",
        ),
        pytest.param(
            {"training": {"attention": "flash_attention_2"}},
            "training.attention flash_attention_2 needs a GPU and this machine has none: set it to Auto or sdpa",
            id="FlashAttention",
        ),
        pytest.param(
            {"training": {"optimizer": "paged_adamw_8bit"}},
            "training.optimizer paged_adamw_8bit pages GPU memory and this machine has no GPU: set it to Auto or adamw_8bit",
            id="a paged optimizer",
        ),
        pytest.param(
            {"lora": {"targetModules": ["query"]}},
            "lora.targetModules names query, and this model has no such layer: it has down_proj, embed_tokens, gate_proj, k_proj, "
            "lm_head, o_proj, q_proj, up_proj, v_proj",
            id="layers of another architecture",
        ),
        pytest.param(
            {"lora": {"modulesToSave": ["wte"]}},
            "lora.modulesToSave names wte, and this model has no such layer: it has down_proj, embed_tokens, gate_proj, k_proj, "
            "lm_head, o_proj, q_proj, up_proj, v_proj",
            id="saved layers of another architecture",
        ),
        pytest.param(
            {"training": {"reportTo": ["WandB"]}},
            "training.reportTo names WandB and the package wandb is not installed: add it to the image (pip install wandb), or remove "
            "WandB from reportTo",
            id="a tracker that is not installed",
        ),
    ],
)
def test_what_this_machine_or_model_cannot_do_is_refused_before_training(
    spec: dict[str, Any], message: str, place: Place
) -> None:
    assert refused(place, 64, **spec) == message


# ---- the adapter to start from ----


@pytest.fixture
def adapter(place: Place) -> Path:
    ended = place.run(job(output={"uri": "adapter"}, lora={"rank": 4, "modulesToSave": ["embed_tokens", "lm_head"]}))
    assert ended.exit_code == 0, ended.text
    return place.folder / "adapter"


def test_an_adapter_of_another_vocabulary_is_refused_with_both_numbers(adapter: Path, place: Place) -> None:
    tiny.write_model(place.folder / "larger", vocab_size=320)
    assert refused(place, 65, model={"uri": "larger"}, adapter={"uri": "adapter"}) == (
        "spec.adapter adapter was trained with a vocabulary of 256 rows and the base larger has 320: name the base that the adapter was "
        "made from"
    )


def test_an_adapter_of_another_width_is_refused_with_both_numbers(adapter: Path, place: Place) -> None:
    tiny.write_model(place.folder / "wider", hidden=64)
    message = refused(place, 65, model={"uri": "wider"}, adapter={"uri": "adapter"})
    assert message == (
        "spec.adapter adapter: its base_model.model.lm_head.weight has the shape 256×32 and would have 256×64 on the base wider: name the "
        "base that the adapter was made from"
    )


def test_settings_that_an_adapter_does_not_have_are_refused(adapter: Path, place: Place) -> None:
    assert refused(place, 64, adapter={"uri": "adapter"}, lora={"rank": 16}) == (
        "lora.rank is 16 and the adapter at adapter was made with 4: leave lora.rank out, or start a fresh adapter by leaving "
        "spec.adapter out"
    )


# ---- the data ----


def rows(place: Place, *lines: Any) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    (place.folder / "own.jsonl").write_text(text + "\n", encoding="utf-8")


GOOD = {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]}
NO_ANSWER = {"messages": [{"role": "user", "content": "有人吗？"}]}


def test_a_bad_row_is_told_by_file_and_row(place: Place) -> None:
    rows(place, GOOD, GOOD, '{"messages": [{"role": "user"')
    message = refused(place, 65, dataset={"train": [{"uri": "own.jsonl"}]})
    assert "own.jsonl" in message
    assert "line 3: not JSON" in message


def test_a_row_without_an_answer_costs_itself_and_not_the_job(place: Place) -> None:
    rows(place, *[GOOD] * 4, NO_ANSWER)
    ended = place.run(job(dataset={"train": [{"uri": "own.jsonl"}]}))
    assert ended.exit_code == 0, ended.text
    assert "data: train: 5 conversations read" in ended.messages
    assert "data: train: dropped: 1 conversation without an assistant turn" in ended.messages


def test_a_set_in_which_nothing_can_be_trained_on_does_not_succeed_with_loss_0(place: Place) -> None:
    rows(place, *[NO_ANSWER] * 4)
    message = refused(place, 65, dataset={"train": [{"uri": "own.jsonl"}]})
    assert message.startswith("dataset.train: ")


# ---- the loss ----


def test_a_loss_that_is_no_number_ends_the_run_at_once(place: Place) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    path = own(place) / "model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"][5, 5] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})
    ended = place.run(job(model={"uri": "own"}))
    assert ended.exit_code == 64
    assert ended.termination["reason"] == "LossDiverged"
    assert ended.termination["message"] == (
        "the loss is nan before anything was learnt: the base model's weights hold values that are no numbers, or overflow: check the "
        "files of spec.model, or set training.precision (now Auto) to fp32"
    )


# ---- what comes out ----


def test_answers_stop(place: Place) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    question, answer = {"role": "user", "content": "赵先生喜欢什么？"}, {"role": "assistant", "content": "他喜欢山水。"}
    rows(place, *[{"messages": [question, answer]}] * 40)
    ended = place.run(
        job(
            method="Full",
            dataset={"train": [{"uri": "own.jsonl"}], "packing": False},
            training={"epochs": 10, "learningRate": 1e-2, "gradientAccumulation": 4},
        )
    )
    assert ended.exit_code == 0, ended.text
    # As somebody else would: the plain library, the chat template and the generation settings in the folder.
    out = place.folder / "out"
    tokenizer = AutoTokenizer.from_pretrained(out)
    prompt = tokenizer.apply_chat_template(
        [question], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    llama = AutoModelForCausalLM.from_pretrained(out)
    ids = llama.generate(**prompt, max_new_tokens=64, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert ids[-1] == tokenizer.eos_token_id
    assert len(ids) < 20
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == answer["content"]


def test_rows_are_tokenised_once(place: Place) -> None:
    def run(name: str, rate: float) -> Ended:
        ended = place.run(job(output={"uri": name}, training={"learningRate": rate}))
        assert ended.exit_code == 0, ended.text
        return ended

    assert not any("found prepared" in message for message in run("first", 1e-3).messages)
    assert any("found prepared" in message for message in run("second", 1e-4).messages)
