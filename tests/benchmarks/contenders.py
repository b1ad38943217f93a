"""The libraries that `workloads.sft` is measured against, each run in a process of its own on the same rows."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

LEARNING_RATE = 1e-3
BATCH = 4
ACCUMULATION = 2


def plain(folder: str, report: str) -> None:
    """transformers' Trainer with LoRA, as its documentation has it: rows padded to the longest of the batch, attention mask."""
    os.chdir(folder)
    import transformers

    rows = _rows()
    clock = _clock(transformers.TrainerCallback, rows)
    trainer = transformers.Trainer(
        model=_llama(),
        args=transformers.TrainingArguments(**_arguments()),
        data_collator=padded_batch,
        train_dataset=rows,
        callbacks=[clock],
    )
    trainer.train()
    _write(report, trainer, clock)


def padded_batch(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows padded to the longest, with an attention mask."""
    import torch

    width = max(len(example["input_ids"]) for example in examples)

    def padded(values: list[list[int]], filler: int) -> Any:
        return torch.tensor([[*row, *[filler] * (width - len(row))] for row in values])

    return {
        "input_ids": padded([example["input_ids"] for example in examples], 3),
        "labels": padded([example["labels"] for example in examples], -100),
        "attention_mask": padded([[1] * len(example["input_ids"]) for example in examples], 0),
    }


def trl(folder: str, report: str) -> None:
    """What the command `trl sft` runs: TRL's SFTTrainer, on rows that are tokenised already, with its own loss."""
    os.chdir(folder)
    import transformers
    from trl import SFTConfig, SFTTrainer

    rows = _rows()
    clock = _clock(transformers.TrainerCallback, rows)
    arguments = _arguments() | {"bf16": False, "activation_checkpointing": False}
    trainer = SFTTrainer(
        model=_llama(),
        args=SFTConfig(**arguments, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}),
        processing_class=transformers.AutoTokenizer.from_pretrained("base"),
        train_dataset=rows.remove_columns("seq_lengths"),
        callbacks=[clock],
    )
    trainer.train()
    _write(report, trainer, clock)


def _rows() -> Any:
    import datasets

    return datasets.load_from_disk("rows")


def _llama() -> Any:
    import warnings

    import peft
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.set_seed(42)
    return peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained("base"),
        peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=8,
            lora_alpha=32,
            lora_dropout=0.0,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        ),
    )


def _arguments() -> dict[str, Any]:
    return {
        "output_dir": "scratch",
        "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": ACCUMULATION,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",  # the one that all of them make alike: ours has no step of a rate of 0
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": 42,
        "data_seed": 42,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
    }


def _clock(base: type, rows: Any) -> Any:
    class Clock(base):  # type: ignore[misc]
        """Seconds of each step, from the end of the one before."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.since = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.since = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            self.seconds.append(now - self.since)
            self.since = now

    return Clock()


def _write(report: str, trainer: Any, clock: Any) -> None:
    losses = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    from workloads.system import memory

    peak = memory.high_water()
    Path(report).write_text(json.dumps({"losses": losses, "seconds": clock.seconds, "peak": peak}), encoding="utf-8")


if __name__ == "__main__":
    # One step of the plain Trainer in a fresh interpreter, told as it ends.
    import transformers

    class Told(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            print("step 1", flush=True)
            os._exit(0)

    os.chdir(sys.argv[1])
    transformers.Trainer(
        model=_llama(),
        args=transformers.TrainingArguments(**_arguments()),
        data_collator=padded_batch,
        train_dataset=_rows(),
        callbacks=[Told()],
    ).train()
