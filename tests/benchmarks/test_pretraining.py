"""Pretraining against the plain Trainer on the same blocks, and how fast a corpus becomes tokens; figures are printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.corpus import CorpusSource
from alpaca_operator.api.rows import RowPolicy
from tests.workloads import library, literature
from tests.workloads.runs import Place
from workloads.data import corpus_tokens
from workloads.data.tokenize import TokenizerSpec
from workloads.data.tokenizer_io import load_tokenizer
from workloads.storage.sources import Input, Inputs
from workloads.system import cgroup

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS, REPEATS = 10, 3
BLOCK, BATCH, ACCUMULATION = 256, 2, 2
SETTLED = 2
"""Steps at the start that are not counted: caches warm up."""

PLAIN = f"""
import glob, json, sys, time
import numpy as np
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments, default_data_collator

(file,) = glob.glob("cache/tokens/*/tokens.bin")
ids = np.fromfile(file, dtype="<u2").astype(np.int64)
whole = ids[: len(ids) // {BLOCK} * {BLOCK}].reshape(-1, {BLOCK})
rows = [{{"input_ids": block, "labels": block}} for block in whole]

class Clock(TrainerCallback):
    def on_train_begin(self, *_, **__): self.last = time.perf_counter()
    def on_log(self, args, state, control, logs, **_):
        now = time.perf_counter()
        if "loss" in logs:
            print(json.dumps({{"step": state.global_step, "loss": logs["loss"], "seconds": now - self.last}}), flush=True)
        self.last = now

torch.manual_seed(42)
Trainer(
    model=AutoModelForCausalLM.from_pretrained("wide"),
    args=TrainingArguments(
        output_dir="plain", max_steps={STEPS}, per_device_train_batch_size={BATCH}, gradient_accumulation_steps={ACCUMULATION},
        learning_rate=1e-3, lr_scheduler_type="constant", logging_steps=1, seed=42, data_seed=42, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True, optim="adamw_torch", remove_unused_columns=False,
        accelerator_config={{"use_seedable_sampler": True}},
    ),
    data_collator=default_data_collator,
    train_dataset=rows,
    callbacks=[Clock()],
).train()
"""


def test_steps_take_no_longer_than_the_plain_trainers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library.write_novels(tmp_path / "novels", 4, lines=400)
    library.write_base(
        tmp_path / "wide", hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8
    )
    place = Place(tmp_path)
    per_step = BLOCK * BATCH * ACCUMULATION
    ours: list[dict[int, float]] = []
    plain: list[dict[int, float]] = []
    for repeat in range(REPEATS):
        ended = place.run(
            library.job(
                model={"uri": "wide"},
                dataset={"train": [{"uri": "novels"}], "validationSplit": 0},
                training={
                    "blockSize": BLOCK,
                    "batchSizePerDevice": BATCH,
                    "gradientAccumulation": ACCUMULATION,
                    "maxSteps": STEPS,
                    "learningRate": 1e-3,
                    "scheduler": "constant",
                    "warmupRatio": 0,
                },
                output={"uri": f"out{repeat}"},
            )
        )
        assert ended.exit_code == 0, ended.text
        speeds = {
            line["step"]: line["tokensPerSecond"]
            for line in ended.lines
            if line.get("stage") == "Training" and "loss" in line
        }
        ours.append({step: per_step / speed for step, speed in speeds.items()})
        lines = _plain(tmp_path)
        plain.append({line["step"]: line["seconds"] for line in lines})
        if repeat == 0:
            # The plain Trainer leaves the remainder out, so that its order is another one where there is a remainder.
            assert lines[0]["loss"] == pytest.approx(ended.losses[1], abs=0.05)
    fastest_ours, fastest_plain = _fastest(ours), _fastest(plain)
    ratio = fastest_plain / fastest_ours
    with capsys.disabled():
        print(
            f"\n\nPretraining, {BATCH} x {ACCUMULATION} blocks of {BLOCK} tokens a step, least time of each step over {REPEATS} runs\n"
            f"  workloads.pretrain {per_step / fastest_ours:,.0f} tokens/s, plain Trainer {per_step / fastest_plain:,.0f}: ratio {ratio:.3f} (aim 0.97)"
        )


def _plain(folder: Path) -> list[dict[str, Any]]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}",
        "HF_HUB_OFFLINE": "1",
    }
    out = subprocess.run(
        [sys.executable, "-c", PLAIN], cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout
    return [json.loads(line) for line in out.splitlines() if line.startswith("{") and '"seconds"' in line]


def _fastest(runs: list[dict[int, float]]) -> float:
    """Mean seconds of a step, each at its fastest."""
    steps = range(SETTLED + 1, STEPS + 1)
    return sum(min(run[step] for run in runs) for step in steps) / len(steps)


def test_a_corpus_is_tokenised_at_the_speed_of_the_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = literature.chinese(60_000, 11) + literature.english(20_000, 12)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(4):
        (corpus / f"{number}.txt").write_text("\n".join(lines[number::4]), encoding="utf-8")
    size = sum(file.stat().st_size for file in corpus.iterdir())
    folder = library.write_vocabulary(library.write_base(tmp_path / "base"), tmp_path / "vocab")
    tokenizer = load_tokenizer(folder)
    recipe = TokenizerSpec.of(tokenizer, folder)
    inputs = Inputs({"dataset.train[0]": Input("corpus", corpus, "digest")})
    sources = [CorpusSource(uri="corpus")]

    def tokenise(cache: Path) -> corpus_tokens.Tokens:
        rows = RowPolicy()
        return corpus_tokens.tokenised("train", sources, inputs, recipe, cache, rows, lambda line: None, lambda: None)

    monkeypatch.setattr(cgroup, "cores", lambda: 1)
    began = time.process_time()
    found = tokenise(tmp_path / "cache")
    alone = time.process_time() - began
    backend = tokenizer.backend_tokenizer
    began = time.process_time()
    for start in range(0, len(lines), 1000):
        backend.encode_batch(lines[start : start + 1000], add_special_tokens=False)
    bare = time.process_time() - began
    began = time.perf_counter()
    tokenise(tmp_path / "cache")
    again = time.perf_counter() - began
    with capsys.disabled():
        print(
            f"\n\nTokenising {size / 1e6:.1f} MB, {found.count:,} tokens, one core (CPU seconds)\n"
            f"  end to end {size / alone / 1e6:.1f} MB/s (aim 2), tokenizers alone, line by line, {size / bare / 1e6:.1f} MB/s; "
            f"found in the cache in {again * 1000:.0f} ms"
        )
    assert tokenise(tmp_path / "cache").count == found.count
