"""LLaMA-Factory in an environment of its own, for its pins are older than ours; run by that environment's Python as a script.

Standing alone, it imports nothing of this repository when it runs there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TORCHAUDIO = '"""Stands in for the package, whose wheel is of another CUDA than torch\'s and refuses to import; text needs none."""\n'


def environment() -> Path:
    """Its Python, in a cached environment."""
    from importlib.metadata import version

    from tests.cluster.bed import cache, pins

    torch = version("torch").partition("+")[0]

    def fill(draft: Path) -> None:
        cache.say(f"installing LLaMA-Factory {pins.LLAMA_FACTORY}")
        python = draft / "bin" / "python"
        cache.run(cache.uv(), "venv", "--relocatable", "--allow-existing", "--python", sys.executable, draft)
        packages = (f"llamafactory=={pins.LLAMA_FACTORY}", f"torch=={torch}")
        cache.run("nice", cache.uv(), "pip", "install", "--python", python, *packages)
        cache.run(cache.uv(), "pip", "uninstall", "--python", python, "torchaudio")
        [library] = draft.glob("lib/python*/site-packages")
        (library / "torchaudio.py").write_text(TORCHAUDIO, encoding="utf-8")

    key = f"{pins.LLAMA_FACTORY}-{cache.digest(torch, TORCHAUDIO, sys.version)}"
    return cache.built("environments/llama-factory", key, fill) / "bin" / "python"


def train(folder: Path, settings: dict[str, Any], report: Path) -> None:
    """LoRA on ``train.json`` of ``folder``; writes seconds, trained tokens and the loss of each step into ``report``."""
    import transformers
    from llamafactory.train.tuner import run_exp

    os.chdir(folder)
    Path("dataset_info.json").write_text(json.dumps({"rows": {"file_name": "train.json"}}), encoding="utf-8")
    tokens: list[int] = []
    seconds: list[float] = []
    losses: dict[int, float] = {}
    training_step = transformers.Trainer.training_step

    def counted(trainer: Any, model: Any, inputs: Any, *arguments: Any, **more: Any) -> Any:
        tokens.append(int((inputs["labels"] != -100).sum()))
        return training_step(trainer, model, inputs, *arguments, **more)

    class Clock(transformers.TrainerCallback):
        """Seconds of each step, from the end of the one before."""

        since = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.since = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            seconds.append(now - self.since)
            self.since = now
            tokens[len(seconds) - 1 :] = [sum(tokens[len(seconds) - 1 :])]

        def on_log(self, _: Any, state: Any, __: Any, logs: dict[str, float], **___: Any) -> None:
            if "loss" in logs:
                losses[state.global_step] = logs["loss"]

    transformers.Trainer.training_step = counted
    run_exp(settings, callbacks=[Clock()])
    report.write_text(json.dumps({"losses": losses, "seconds": seconds, "tokens": tokens}), encoding="utf-8")


def settings(rate: float, batch: int, accumulation: int, length: int) -> dict[str, Any]:
    """The same work in its words; without a template of its own, a conversation becomes `Human: …`, `Assistant: …`."""
    return {
        "model_name_or_path": "base",
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "lora_target": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
        "dataset_dir": ".",
        "dataset": "rows",
        "cutoff_len": length,
        "overwrite_cache": True,
        "num_train_epochs": 1,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": rate,
        "lr_scheduler_type": "constant",
        "seed": 42,
        "bf16": False,
        "use_cpu": True,
        "disable_gradient_checkpointing": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "output_dir": "llama-factory",
        "overwrite_output_dir": True,
    }


if __name__ == "__main__":
    train(Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
