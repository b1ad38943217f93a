"""`python -m workloads.quantize`: what lies at the output, who can load it, what is refused, and what the gates keep back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.workloads import quantized, tiny
from tests.workloads.quantized import Ended, job, run

QUESTION = "第3问：赵先生喜欢什么？"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tuned` (a model), `rows.json`, and what a QuantizeJob made of them: `out`. Not to be written to."""
    folder = tmp_path_factory.mktemp("quantized")
    quantized.tune(folder / "tuned")
    tiny.write_rows(folder / "rows.json", 200)
    ended = run(folder, job())
    assert ended.exit_code == 0, ended.text
    (folder / "lines.json").write_text(json.dumps(ended.lines), encoding="utf-8")
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A folder of a test's own, with the model and the rows."""
    for name in ("tuned", "rows.json"):
        (tmp_path / name).symlink_to(made / name)
    return tmp_path


def done(ended: Ended) -> Ended:
    assert ended.exit_code == 0, ended.text
    return ended


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def asked(folder: Path) -> Any:
    from workloads import templates
    from workloads.tokenizer_files import load_tokenizer

    tokenizer = load_tokenizer(folder)
    template = templates.load("FromModel", None, tokenizer)
    return template.prompt([{"role": "user", "content": QUESTION}]), tokenizer


def by_transformers(folder: Path) -> list[int]:
    """What the model in ``folder`` answers, loaded as anybody would."""
    import torch
    from transformers import AutoModelForCausalLM

    from workloads import quantizing

    ids, _ = asked(folder)
    with quantizing.quiet(), quantizing.eager():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        return model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=24)[0].tolist()


def by_gptqmodel(folder: Path) -> list[int]:
    import torch

    from workloads import quantizing

    ids, _ = asked(folder)
    with quantizing.quiet(), quantizing.eager():
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
