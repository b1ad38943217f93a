"""The loop: the same losses as transformers' Trainer, however rows are batched or packed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.workloads.runs import Place, job
from workloads.data.collator import IGNORED
from workloads.models import libraries
from workloads.training import arguments

libraries.quiet()

CLOSE = 2e-5
"""Float32 sums in another order."""


def plain_losses(shelf: Path, rows: Any, scratch: Path, **settings: Any) -> dict[int, float]:
    """Losses by step of transformers' own Trainer with LoRA, padding and attention mask, on the same rows."""
    import peft
    import torch

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
    trainer = _ShiftedCosine(
        model=llama,
        args=transformers.TrainingArguments(
            output_dir=str(scratch),
            learning_rate=1e-2,
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


class _ShiftedCosine(transformers.Trainer):
    """A warm-up of one step, whose learning rate is the peak, and a cosine that would reach 0 one step after the last."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        from torch.optim.lr_scheduler import LambdaLR

        self.lr_scheduler = LambdaLR(
            self.optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / num_training_steps))
        )
        return self.lr_scheduler


def unpacked_rows(shelf: Path, cache: Path) -> Any:
    """The rows of `train.json`, prepared as a run prepares them."""
    from types import SimpleNamespace

    from alpaca_operator.api.sft import SFTJob
    from workloads.data import prepared, tokenizer_io
    from workloads.data.chat_templates import loading

    spec = SFTJob.model_validate(job(dataset={"packing": False})).spec
    tokenizer = tokenizer_io.load_tokenizer(shelf / "base")
    template = loading.load("HumanAssistant", None, tokenizer)
    found = SimpleNamespace(path=shelf / "train.json", digest="sha256:0", uri="train.json")
    return prepared.datasets_for(spec, {"dataset.train[0]": found}, template, cache, 42, log=lambda line: None).train


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
                training={"maxSteps": 1, "learningRate": 1e-9, **settings},
            )
        )
        assert ended.exit_code == 0, ended.text
        return ended.evaluations[1]

    # After a step this small the weights are all but the base's, whatever the batches.
    packed = run(packing=True, batchSizePerDevice=1)
    assert run(packing=False, batchSizePerDevice=1) == pytest.approx(packed, abs=CLOSE)
    assert run(packing=False, batchSizePerDevice=5) == pytest.approx(packed, abs=CLOSE)


def test_every_setting_of_the_trainer_that_is_on_by_itself_is_set() -> None:
    """What a new version of transformers turns on by default must be decided here first."""
    import dataclasses

    from alpaca_operator.api.sft import SFTJob
    from workloads.training.auto import Policy

    spec = SFTJob.model_validate(job()).spec
    policy = Policy("fp32", "float32", None, "sdpa", "None", "adamw_torch", "None", 0)
    ours = arguments.of(spec, policy, Path("scratch"), None)
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


def test_a_process_uses_one_gpu_whatever_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own Trainer deals the batches of a single process out to all GPUs, and fails on ours."""
    import transformers

    from alpaca_operator.api.sft import SFTJob
    from workloads.training.auto import Policy

    def found(self: Any, number: int) -> None:
        self.__dict__["gpus"] = number or 2  # where the library finds none here, it is to find two

    two = property(lambda self: self.__dict__["gpus"], found)
    monkeypatch.setattr(transformers.TrainingArguments, "_n_gpu", two, raising=False)
    spec = SFTJob.model_validate(job(training={"batchSizePerDevice": 3})).spec
    policy = Policy("fp32", "float32", None, "sdpa", "None", "adamw_torch", "None", 0)
    ours = arguments.of(spec, policy, Path("scratch"), None)
    assert (ours.n_gpu, ours.train_batch_size) == (1, 3)


@pytest.mark.parametrize(("loss", "correct", "told"), [
    pytest.param(0.0, 7, None, id="0 with every token foretold has been learnt"),
    pytest.param(0.0, 6, "the loss is exactly 0 at step 4 and 1 of 7 tokens are foretold wrongly: nothing is being learnt", id="0 with a wrong one is underflow"),
    pytest.param(0.1, 0, None, id="any other number is a loss"),
])  # fmt: skip
def test_a_loss_of_0_is_told_from_one_that_is_lost(loss: float, correct: int, told: str | None) -> None:
    from types import SimpleNamespace

    import torch

    from alpaca_operator.api.sft import SFTJob
    from workloads.errors import LossDiverged
    from workloads.runtime.distributed import DistributedContext
    from workloads.training.trainer import Trainer

    trainer: Any = SimpleNamespace(
        runtime=SimpleNamespace(distributed=DistributedContext()),
        state=SimpleNamespace(global_step=3),
        settings=SFTJob.model_validate(job()).spec.training,
        _get_learning_rate=lambda: 1e-4,
        _step_loss=torch.tensor(loss),
        _step_correct=torch.tensor(correct),
        _step_targets=7,
    )
    if told is None:
        Trainer.refuse_bad_loss(trainer)
        assert (float(trainer._step_loss), int(trainer._step_correct), trainer._step_targets) == (0, 0, 0)
        return
    with pytest.raises(LossDiverged) as refusal:
        Trainer.refuse_bad_loss(trainer)
    assert str(refusal.value).startswith(told)
