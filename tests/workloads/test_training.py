"""The loop: the same losses as transformers' Trainer, however rows are batched or packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.workloads.runs import Place, job
from workloads import model, training
from workloads.training import IGNORED, Collator

model.quiet_libraries()

CLOSE = 2e-5
"""Float32 sums in another order."""


def sequence(*rows: tuple[list[int], list[int]]) -> dict[str, Any]:
    """Rows of (ids, labels), packed."""
    return {
        "input_ids": np.array([token for ids, _ in rows for token in ids]),
        "labels": np.array([label for _, labels in rows for label in labels]),
        "seq_lengths": [len(ids) for ids, _ in rows],
    }


ONE = ([5, 6, 7, 8], [IGNORED, IGNORED, 7, 8])
TWO = ([9, 10, 11], [IGNORED, 10, 11])


def test_a_batch_holds_only_the_tokens_that_are_trained_on() -> None:
    batch = Collator(pad=0)([sequence(ONE), sequence(TWO)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 10, 11, 0]]
    assert batch["logits_to_keep"].tolist() == [[False, True, True, False], [True, True, False, False]]
    assert batch["labels"].tolist() == [7, 8, 10, 11]
    assert batch["tokens"] == 7
    assert "attention_mask" not in batch
    assert "position_ids" not in batch


def test_packed_rows_start_at_position_0_and_predict_nothing_across_their_border() -> None:
    trained_start = ([9, 10, 11], [9, 10, 11])
    batch = Collator(pad=0)([sequence(ONE, trained_start), sequence(TWO)])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 0, 1, 2, 3]]
    assert batch["labels"].tolist() == [7, 8, 10, 11, 10, 11], "the first token of the second row is nobody's target"


def test_for_flash_attention_everything_is_one_sequence() -> None:
    batch = Collator(pad=0, flat=True)([sequence(ONE, TWO), sequence(TWO)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10, 11, 9, 10, 11]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 2]]
    assert batch["labels"].tolist() == [7, 8, 10, 11, 10, 11]


@pytest.fixture(scope="module")
def llama(shelf: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(shelf / "base", attn_implementation="sdpa").eval()


def logits(model: Any, batch: dict[str, Any]) -> Any:
    """What the model says at every trained position of a batch, in order."""
    import torch

    shown = {key: batch[key] for key in ("input_ids", "position_ids", "logits_to_keep") if key in batch}
    with torch.inference_mode():
        return model(**shown, use_cache=False).logits


def test_no_row_sees_another_row_of_its_sequence(llama: Any) -> None:
    import torch

    draw = np.random.default_rng(7)
    rows = [(ids := draw.integers(4, 200, length).tolist(), [IGNORED, *ids[1:]]) for length in (17, 3, 40, 9, 2, 30)]
    alone = [logits(llama, Collator(pad=0)([sequence(row)])) for row in rows]
    packed = logits(llama, Collator(pad=0)([sequence(*rows)]))
    batched = logits(llama, Collator(pad=0)([sequence(*rows[:3]), sequence(*rows[3:])]))
    flat = logits(llama, Collator(pad=0, flat=True)([sequence(*rows[:3]), sequence(*rows[3:])]))
    padded = logits(llama, Collator(pad=0)([sequence(row) for row in rows]))
    for other in (packed, batched, flat, padded):
        assert torch.allclose(torch.cat(alone), other, atol=CLOSE)


def plain_losses(shelf: Path, rows: Any, scratch: Path, **settings: Any) -> dict[int, float]:
    """Losses by step of transformers' own Trainer with LoRA, padding and attention mask, on the same rows."""
    import peft
    import torch
    import transformers

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        width = max(len(example["input_ids"]) for example in examples)

        def padded(key: str, value: int) -> Any:
            return torch.tensor([[*example[key], *[value] * (width - len(example[key]))] for example in examples])

        mask = torch.tensor(
            [[1] * len(example["input_ids"]) + [0] * (width - len(example["input_ids"])) for example in examples]
        )
        return {"input_ids": padded("input_ids", 3), "labels": padded("labels", IGNORED), "attention_mask": mask}

    transformers.set_seed(42)
    llama = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(shelf / "base"),
        peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=8,
            lora_alpha=32,
            lora_dropout=0.0,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        ),
    )
    trainer = transformers.Trainer(
        model=llama,
        args=transformers.TrainingArguments(
            output_dir=str(scratch),
            learning_rate=1e-2,
            lr_scheduler_type="cosine",
            warmup_steps=0.03,
            logging_steps=1,
            remove_unused_columns=False,
            report_to=[],
            use_cpu=True,
            seed=42,
            data_seed=42,
            disable_tqdm=True,
            save_strategy="no",
            dataloader_pin_memory=False,
            optim="adamw_torch",
            **settings,
        ),
        data_collator=collate,
        train_dataset=rows,
    )
    trainer.train()
    return {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}


def unpacked_rows(shelf: Path, cache: Path) -> Any:
    """The rows of `train.json`, prepared as a run prepares them."""
    from types import SimpleNamespace

    from alpaca_operator.api.sft import SFTJob
    from workloads import data, templates, tokenizer_files

    spec = SFTJob.model_validate(job(dataset={"packing": False})).spec
    tokenizer = tokenizer_files.load_tokenizer(shelf / "base")
    template = templates.load("HumanAssistant", None, tokenizer)
    found = SimpleNamespace(path=shelf / "train.json", digest="sha256:0", uri="train.json")
    return data.datasets_for(spec, {"dataset.train[0]": found}, template, cache, 42, say=lambda line: None).train


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
def test_losses_are_those_of_the_plain_trainer(shelf: Path, place: Place, tmp_path: Path) -> None:
    settings = {"batchSizePerDevice": 4, "gradientAccumulation": 3, "epochs": 2}
    ours = place.run(job(dataset={"packing": False}, lora={"dropout": 0}, training=settings))
    assert ours.exit_code == 0, ours.text
    plain = plain_losses(
        shelf,
        unpacked_rows(shelf, tmp_path / "cache"),
        tmp_path / "plain",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
        num_train_epochs=2,
    )
    assert ours.losses == pytest.approx(plain, abs=CLOSE)
    assert len(plain) == 10


def test_one_batch_of_8_is_8_accumulated(place: Place) -> None:
    def run(batch: int, accumulation: int) -> dict[int, float]:
        ended = place.run(
            job(
                output={"uri": f"out-{batch}"},
                dataset={"packing": False},
                lora={"dropout": 0},
                training={"batchSizePerDevice": batch, "gradientAccumulation": accumulation, "epochs": 2},
            )
        )
        assert ended.exit_code == 0, ended.text
        return ended.losses

    whole = run(8, 1)
    assert run(1, 8) == pytest.approx(whole, abs=CLOSE)
    assert run(2, 4) == pytest.approx(whole, abs=CLOSE)


def test_the_validation_loss_is_weighted_by_tokens(place: Place) -> None:
    def run(**settings: Any) -> float:
        ended = place.run(
            job(
                output={"uri": "-".join(map(str, settings.values()))},
                dataset={"validationSplit": 0.4, "packing": settings.pop("packing")},
                training={"maxSteps": 1, **settings},
            )
        )
        assert ended.exit_code == 0, ended.text
        return ended.evaluations[1]

    # At learning rate 0 (the first step of the warm-up) the weights are the base's, whatever the batches.
    packed = run(packing=True, batchSizePerDevice=1)
    assert run(packing=False, batchSizePerDevice=1) == pytest.approx(packed, abs=CLOSE)
    assert run(packing=False, batchSizePerDevice=5) == pytest.approx(packed, abs=CLOSE)


def test_every_setting_of_the_trainer_that_is_on_by_itself_is_set() -> None:
    """What a new version of transformers turns on by default must be decided here first."""
    import dataclasses

    import transformers

    from alpaca_operator.api.sft import SFTJob
    from workloads.policy import Policy

    spec = SFTJob.model_validate(job()).spec
    policy = Policy("fp32", "float32", None, "sdpa", "None", "adamw_torch", "None", 0)
    ours = training.arguments(spec, policy, Path("scratch"), None)
    on = {
        field.name
        for field in dataclasses.fields(transformers.TrainingArguments)
        if field.default is True and getattr(ours, field.name) is True
    }
    assert on == {
        "average_tokens_across_devices",
        "dataloader_in_order",
        "eval_do_concat_batches",
        "log_on_each_node",
        "skip_memory_metrics",
    }
