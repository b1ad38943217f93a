"""The model card, from what a run knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from alpaca_operator.api.sft import SFTJob
from alpaca_operator.api.status import OutputKind
from tests.workloads.runs import job
from workloads.storage.sources import Input, Inputs
from workloads.training import model_card
from workloads.training.curves import Curves

CURVES = Curves(train=[(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)], validation=[(2, 3.5), (4, 2.5)])


def rendered(kind: OutputKind = "LoRAAdapter", **spec: object) -> str:
    model = model_card.TrainedModel(
        job=SFTJob.model_validate(job("poet", **spec)),
        kind=kind,
        inputs=Inputs(
            {
                "model": Input("hf://org/llama@main", Path("/cache/llama"), "sha256:1"),
                "dataset.train[0]": Input("pvc://data/rows.csv", Path("/mnt/data/rows.csv"), "sha256:2"),
            }
        ),
        policy={"precision": "bf16"},
        report={"lines": ["train: /mnt/data/rows.csv: InputTarget", "train: 3 conversations read"]},
        metrics={"evalLoss": 2.5, "perplexity": None},
        curves=CURVES,
    )
    return model_card.render(model)


def test_a_card_says_what_was_made_from_what_and_how() -> None:
    text = rendered(model={"uri": "hf://org/llama@main"}, dataset={"train": [{"uri": "pvc://data/rows.csv"}]})
    assert text.startswith('---\nlibrary_name: "peft"\npipeline_tag: "text-generation"\n')
    assert 'base_model: "org/llama"\n' in text
    assert "A LoRA adapter of `hf://org/llama@main`, trained by `SFTJob` `poet` of Literary Alpaca." in text
    assert "| evalLoss | 2.5 |\n| perplexity |  |\n" in text
    assert "- train: pvc://data/rows.csv: InputTarget\n" in text, "files are named as the job names them"
    assert "/mnt/" not in text
    assert "| lora.rank | 8 |" in text
    assert "| dataset.train[0] | pvc://data/rows.csv | sha256:2 |" in text
    assert 'base = AutoModelForCausalLM.from_pretrained("org/llama")' in text


@pytest.mark.parametrize(
    ("kind", "spec", "sentence"),
    [
        pytest.param("LoRAAdapter", {"lora": {"useDora": True}}, "A DoRA adapter of `base`", id="DoRA"),
        pytest.param("LoRAAdapter", {"lora": {"useRslora": True}}, "An rsLoRA adapter of `base`", id="rsLoRA"),
        pytest.param(
            "Model", {"merge": True}, "A merged fine-tune (the adapter alone is in `adapter/`) of `base`", id="merged"
        ),
        pytest.param("Model", {"method": "Full"}, "A full fine-tune of `base`", id="full"),
    ],
)
def test_a_card_names_what_it_is(kind: OutputKind, spec: dict[str, object], sentence: str) -> None:
    assert sentence in rendered(kind, **spec)


def test_settings_that_were_not_read_are_not_listed() -> None:
    assert "lora." not in rendered("Model", method="Full")


def test_rope_scaling_is_told_where_an_adapter_cannot_carry_it() -> None:
    text = rendered(model={"ropeScaling": {"type": "linear", "factor": 2}})
    assert "The base was loaded with rope scaling `linear` by 2: set the same when loading it." in text
