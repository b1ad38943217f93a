"""`python -m workloads.quantize`: what lies at the output, and who can load it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from alpaca_operator.api.quantize import QuantizeJob
from tests.workloads import tiny
from tests.workloads.quantized import done, job, run
from tests.workloads.runs import merged
from workloads.models import inspect
from workloads.quantization import gptq

QUESTION = "第3问：赵先生喜欢什么？"


def asked(folder: Path) -> Any:
    from workloads.data.chat_templates import loading
    from workloads.data.tokenizer_io import load_tokenizer

    tokenizer = load_tokenizer(folder)
    template = loading.load("FromModel", None, tokenizer)
    return template.prompt([{"role": "user", "content": QUESTION}]), tokenizer


def by_transformers(folder: Path) -> list[int]:
    """What the model in ``folder`` answers, loaded as anybody would."""
    import torch
    from transformers import AutoModelForCausalLM

    from workloads.models import libraries

    ids, _ = asked(folder)
    with libraries.silenced(), libraries.without_compiling():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        return model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=24)[0].tolist()


def by_gptqmodel(folder: Path) -> list[int]:
    import torch

    from workloads.models import libraries

    ids, _ = asked(folder)
    with libraries.silenced(), libraries.without_compiling():
        from gptqmodel import GPTQModel

        model = GPTQModel.load(str(folder), device="cpu", dtype=torch.bfloat16)
        return model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=24)[0].tolist()


def test_the_output_is_a_model_with_its_report(made: Path) -> None:
    assert sorted(path.name for path in (made / "out").iterdir()) == [
        "README.md",
        "artifact.json",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "layer-error.svg",
        "model.safetensors",
        "quantize_config.json",
        "report.html",
        "report.json",
        "report.md",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    artifact = json.loads((made / "out" / "artifact.json").read_text(encoding="utf-8"))
    assert artifact["kind"] == "GPTQModel"
    assert {"gptqmodel", "transformers", "torch"} <= artifact["versions"].keys()
    assert [path.name for path in made.glob("out.*")] == [], "nothing is left beside it"


# GPTQModel leaves a temporary folder of its own to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <finalize object:pytest.PytestUnraisableExceptionWarning")
def test_transformers_and_gptqmodel_load_it_and_answer_alike(made: Path) -> None:
    ids, tokenizer = asked(made / "out")
    answer = by_transformers(made / "out")
    assert answer == by_gptqmodel(made / "out")
    assert "喜欢" in tokenizer.decode(answer[len(ids) :])


def test_no_path_of_this_machine_is_in_the_output(made: Path) -> None:
    for path in (made / "out").rglob("*"):
        assert str(made).encode() not in path.read_bytes(), path.name


def test_the_same_job_again_is_reused(made: Path) -> None:
    ended = done(run(made, job()))
    assert ended.termination["reason"] == "Reused"


def test_layers_are_told_one_by_one(made: Path) -> None:
    lines = json.loads((made / "lines.json").read_text(encoding="utf-8"))
    told = [
        (line["step"], line["totalSteps"]) for line in lines if line.get("stage") == "Quantizing" and "step" in line
    ]
    assert told == [(1, 2), (2, 2)]
    stages = [line["stage"] for line in lines if "stage" in line and "step" not in line]
    assert stages == ["Loading", "Preparing", "Evaluating", "Quantizing", "Saving", "Evaluating", "Saving"]


# Every option, and every shape of Llama


SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biased": {"attention_bias": True, "mlp_bias": True},
}


@pytest.mark.filterwarnings("ignore:Exception ignored in. <finalize object:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("spec", "says"),
    [
        pytest.param({"bits": 8}, {"bits": 8}, id="8 bits"),
        pytest.param({"bits": 3, "sym": False}, {"bits": 3, "sym": False}, id="3 bits with zero points"),
        pytest.param({"bits": 2, "groupSize": 64}, {"bits": 2, "group_size": 64}, id="2 bits in larger groups"),
        pytest.param({"descAct": True}, {"desc_act": True}, id="columns by their activations"),
        pytest.param({"groupSize": -1}, {"group_size": -1, "desc_act": False}, id="one scale a row"),
        pytest.param({"model": {"uri": "tied"}}, {"lm_head": False}, id="the head is the embedding"),
        pytest.param(
            {"model": {"uri": "biased"}, "trueSequential": False}, {"true_sequential": False}, id="layers with a bias"
        ),
    ],
)
def test_what_is_asked_for_is_saved_and_loads_everywhere(
    bench: Path, spec: dict[str, Any], says: dict[str, Any]
) -> None:
    name = spec.get("model", {}).get("uri", "plain")
    tiny.write_model(bench / name, hidden=64, num_hidden_layers=1, **SHAPES[name])
    done(run(bench, job(**merged({"model": {"uri": name}, "evaluation": {"answers": 0}}, spec))))
    out = bench / "out"
    for config in (
        json.loads((out / "config.json").read_text(encoding="utf-8"))["quantization_config"],
        json.loads((out / "quantize_config.json").read_text(encoding="utf-8")),
    ):
        assert {key: config[key] for key in says} == says
    size = sum(math.prod(tensor.shape) * tensor.itemsize for tensor in load_file(out / "model.safetensors").values())
    assert size == gptq.saved_bytes(
        inspect.inspect_model(bench / name, "model", name), QuantizeJob.model_validate(job(**spec)).spec
    )
    with safe_open(out / "model.safetensors", "pt") as tensors:
        assert ("lm_head.weight" in tensors.keys()) is (name != "tied")  # noqa: SIM118 - no mapping
    assert by_transformers(out) == by_gptqmodel(out)


def test_the_files_say_what_vllm_and_auto_gptq_read(made: Path) -> None:
    """vLLM: GPTQConfig.from_config and GPTQMarlinConfig.from_config; auto-gptq: BaseQuantizeConfig, and its names of weight files."""
    config = json.loads((made / "out" / "quantize_config.json").read_text(encoding="utf-8"))
    of_vllm = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True, "lm_head": False}
    of_auto_gptq = {
        "bits": 4,
        "group_size": 32,
        "damp_percent": 0.05,
        "desc_act": False,
        "static_groups": False,
        "sym": True,
        "true_sequential": True,
        "model_name_or_path": None,
        "model_file_base_name": "model",
        "checkpoint_format": "gptq",
    }
    wanted = of_vllm | of_auto_gptq
    assert {key: config[key] for key in wanted} == wanted
    assert json.loads((made / "out" / "config.json").read_text(encoding="utf-8"))["quantization_config"] == config
    assert (made / "out" / "model.safetensors").is_file()


def test_embedding_head_and_norms_are_left_as_they_were(made: Path) -> None:
    import torch
    from safetensors.torch import load_file

    before, after = load_file(made / "tuned" / "model.safetensors"), load_file(made / "out" / "model.safetensors")
    kept = sorted(name for name in after if name in before)
    assert kept == [
        "lm_head.weight",
        "model.embed_tokens.weight",
        *(f"model.layers.{block}.{norm}_layernorm.weight" for block in (0, 1) for norm in ("input", "post_attention")),
        "model.norm.weight",
    ]
    for name in kept:
        assert torch.equal(after[name], before[name].to(after[name].dtype)), name


def test_a_model_as_the_hub_s_cache_keeps_it_is_quantized_alike(made: Path, tmp_path: Path) -> None:
    """Its files are links out of their folder, which GPTQModel would not go on from."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "tuned").mkdir()
    for path in (made / "tuned").iterdir():
        shutil.copyfile(path, tmp_path / "blobs" / path.name)
        (tmp_path / "tuned" / path.name).symlink_to(tmp_path / "blobs" / path.name)
    (tmp_path / "rows.json").symlink_to(made / "rows.json")
    ended = done(run(tmp_path, job(evaluation={"answers": 0})))
    assert not [message for message in ended.messages if "begins anew" in message]
    weights = [(folder / "out" / "model.safetensors").read_bytes() for folder in (made, tmp_path)]
    assert weights[0] == weights[1]


def test_rope_scaling_is_measured_with_and_saved(bench: Path) -> None:
    scaling = {"type": "linear", "factor": 2}
    done(run(bench, job(model={"ropeScaling": scaling}, evaluation={"answers": 0})))
    config = json.loads((bench / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["rope_parameters"]["rope_type"] == "linear"
    assert config["max_position_embeddings"] == 1024


@pytest.mark.filterwarnings("ignore:Exception ignored in. <finalize object:pytest.PytestUnraisableExceptionWarning")
def test_a_chat_answers_with_it_as_generate_does(made: Path, tmp_path: Path) -> None:
    from alpaca_operator.api.chat import ChatDeployment
    from tests.workloads.engine_process import manifest
    from tests.workloads.serving.engine.test_loading import answer, generated
    from workloads.models import libraries
    from workloads.serving.engine import loading
    from workloads.serving.engine.metrics import Metrics
    from workloads.system.environment import Environment

    chat = ChatDeployment.model_validate(manifest(model={"uri": str(made / "out")}, template="FromModel"))
    with libraries.silenced():
        environment = Environment.read({"ALPACA_CACHE": str(tmp_path)})
        served = loading.load(chat, environment, Metrics(), lambda message: None)["tiny"]
        assert served.kind == "GPTQModel"
        assert answer(served) == generated(served.scheduler._model, served)
    served.scheduler.close()
