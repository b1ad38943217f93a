"""Useful tokens a second of `workloads.sft` against the libraries it stands on. Losses are compared; speeds are printed.

Speeds are the best of several repeats, step by step: on a machine that does other things beside, a mean measures those.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import contenders, llama_factory
from tests.cluster.bed import pins
from tests.workloads import tiny
from tests.workloads.runs import ROOT, SERVER, Line, Place, job
from workloads.models import libraries

libraries.quiet()

ROWS = 64
REPEATS = 3
LENGTH = 256
CLOSE = 2e-5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A Llama of 7 M weights, whose head is a third of them as in a real small model, and short rows of a chat."""
    folder = tmp_path_factory.mktemp("benchmark")
    tiny.write_model(
        folder / "base",
        hidden=256,
        intermediate_size=704,
        num_hidden_layers=6,
        vocab_size=8192,
        num_attention_heads=8,
        max_position_embeddings=1024,
    )
    draw = random.Random(1)
    rows = tiny.rows(ROWS, seed=1)
    for row in rows:
        row["output"] *= draw.choice([1, 1, 1, 1, 2, 4])  # most answers are short, a few are long
    (folder / "train.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    _unpacked(folder).save_to_disk(folder / "rows")
    return Place(folder)


def test_training_speed(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = _tokens_by_step(place.folder)
    unpacked, packed, plain, trl = [], [], [], []
    for turn in range(REPEATS):  # in turns, so that a busy minute of the machine does not hit one of them alone
        unpacked.append(_ours(place, f"unpacked-{turn}", packing=False))
        packed.append(_ours(place, f"packed-{turn}", packing=True))
        plain.append(_other(place, contenders.plain))
        trl.append(_other(place, contenders.trl))

    for other in plain + trl:
        assert {int(step): loss for step, loss in other["losses"].items()} == pytest.approx(
            unpacked[0]["losses"], abs=CLOSE
        )

    speed = {
        "workloads.sft, packed": _speed([run["speeds"] for run in packed]),
        "workloads.sft": _speed([run["speeds"] for run in unpacked]),
        "transformers.Trainer": _speed([_per_second(tokens, run["seconds"]) for run in plain]),
        "trl.SFTTrainer": _speed([_per_second(tokens, run["seconds"]) for run in trl]),
    }
    ours = speed["workloads.sft"]
    with capsys.disabled():
        print(
            f"\nuseful tokens/s, one thread, {ROWS} rows, {sum(tokens):,} tokens; the same losses at all {len(tokens)} steps"
        )
        for name, value in speed.items():
            print(f"  {name:24}{value:8,.0f}")
        print(
            f"  unpacked / Trainer {ours / speed['transformers.Trainer']:.2f} (aim 0.95), packed / unpacked "
            f"{speed['workloads.sft, packed'] / ours:.2f} (aim 1.3), unpacked / trl {ours / speed['trl.SFTTrainer']:.2f} (aim 3)"
        )
        print(
            f"  peak memory of the process: workloads.sft {_mib(unpacked)}, transformers.Trainer {_mib(plain)}, trl.SFTTrainer {_mib(trl)}"
        )


@pytest.mark.drill
@pytest.mark.timeout(3600)
def test_training_speed_beside_llama_factory(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained tokens a second: LLaMA-Factory cuts and tokenises rows in its own way, so that what it trains on is counted in its batches."""
    trained = _tokens_by_step(place.folder, "labels")
    useful = _tokens_by_step(place.folder)
    ours, plain, trl, factory = [], [], [], []
    for turn in range(REPEATS):
        run = _ours(place, f"beside-{turn}", packing=False)
        ours.append([speed * part / whole for speed, part, whole in zip(run["speeds"], trained, useful, strict=True)])
        plain.append(_per_second(trained, _other(place, contenders.plain)["seconds"]))
        trl.append(_per_second(trained, _other(place, contenders.trl)["seconds"]))
        other = _llama_factory(place.folder)
        factory.append(_per_second(other["tokens"], other["seconds"]))
    speed = {
        "workloads.sft": _speed(ours),
        "transformers.Trainer": _speed(plain),
        "trl.SFTTrainer": _speed(trl),
        f"LLaMA-Factory {pins.LLAMA_FACTORY}": _speed(factory),
    }
    with capsys.disabled():
        print(f"\n{time.strftime('%Y-%m-%d')}, trained tokens/s, one thread, not packed, best of {REPEATS} by step")
        for name, value in speed.items():
            print(f"  {name:24}{value:8,.0f}   ours / this {speed['workloads.sft'] / value:.2f}")


def test_time_to_the_first_step(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    def ours(turn: int) -> float:
        start, first = time.monotonic(), []

        def at(line: Line) -> int | None:
            if "loss" in line and not first:
                first.append(time.monotonic() - start)
                return signal.SIGKILL
            return None

        place.run(job(output={"uri": f"start-{turn}"}, dataset={"packing": False}), at=at, cold=True)
        return first[0]

    def plain() -> float:
        start = time.monotonic()
        command = [sys.executable, "-m", "tests.benchmarks.contenders", str(place.folder)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert any(line == "step 1\n" for line in process.stdout)
            return time.monotonic() - start

    turns = [(ours(turn), plain()) for turn in range(2)]
    best_ours, best_plain = (min(times) for times in zip(*turns, strict=True))
    with capsys.disabled():
        print(
            f"\nfirst step after {best_ours:.1f} s, of the plain Trainer on the same rows, tokenised before, after {best_plain:.1f} s "
            f"({best_ours / best_plain:.2f})"
        )


def _ours(place: Place, name: str, packing: bool) -> dict[str, Any]:
    ended = place.run(
        job(
            output={"uri": name},
            dataset={"packing": packing},
            lora={"dropout": 0},
            training={
                "learningRate": contenders.LEARNING_RATE,
                "scheduler": "constant",
                "batchSizePerDevice": 1 if packing else contenders.BATCH,
                "gradientAccumulation": contenders.ACCUMULATION,
                "sequenceLength": LENGTH,
                "saveSteps": 1000,
                "epochs": 3 if packing else 1,  # packed, an epoch has too few steps to take the best of
            },
        )
    )
    assert ended.exit_code == 0, ended.text
    speeds = {
        line["step"]: line["tokensPerSecond"] for line in ended.lines if "loss" in line and line["stage"] == "Training"
    }
    return {"losses": ended.losses, "speeds": list(speeds.values()), "peak": ended.peak_bytes}


def _other(place: Place, contender: Callable[[str, str], None]) -> dict[str, Any]:
    report = place.folder / "report.json"
    process = SERVER.Process(target=contender, args=(str(place.folder), str(report)))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    return dict(json.loads(report.read_text(encoding="utf-8")))


def _llama_factory(folder: Path) -> dict[str, Any]:
    report = folder / "llama-factory.json"
    settings = llama_factory.settings(contenders.LEARNING_RATE, contenders.BATCH, contenders.ACCUMULATION, LENGTH)
    command = [llama_factory.environment(), llama_factory.__file__, folder, json.dumps(settings), report]
    alone = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1", "PYTHONPATH": ""}
    ended = subprocess.run(
        command, cwd=folder, env=os.environ | alone, check=False, timeout=1200, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return dict(json.loads(report.read_text(encoding="utf-8")))


def _per_second(tokens: list[int], seconds: list[float]) -> list[float]:
    return [count / spent for count, spent in zip(tokens, seconds, strict=True)]


def _speed(repeats: list[list[float]]) -> float:
    """Tokens a second over all steps, each step's best repeat taken. The first step warms up and is left out."""
    best = [max(speeds) for speeds in zip(*repeats, strict=True)][1:]
    return len(best) / sum(1 / speed for speed in best)


def _mib(runs: list[dict[str, Any]]) -> str:
    return f"{min(run['peak'] for run in runs) / 2**20:,.0f} MiB"


def _tokens_by_step(folder: Path, column: str = "input_ids") -> list[int]:
    """Unpadded tokens of each step, in the order that a seeded Trainer draws the rows; with ``labels``, those that are trained."""
    import datasets
    from accelerate.data_loader import SeedableRandomSampler

    rows = datasets.load_from_disk(str(folder / "rows"))
    sampler = SeedableRandomSampler(data_source=rows, data_seed=42)
    lengths = [sum(token != -100 for token in rows[index][column]) for index in sampler]
    size = contenders.BATCH * contenders.ACCUMULATION
    return [sum(lengths[start : start + size]) for start in range(0, len(lengths), size)]


def _unpacked(folder: Path) -> Any:
    """The rows as a run prepares them, one a sequence."""
    from types import SimpleNamespace

    from alpaca_operator.api.sft import SFTJob
    from workloads.data import tokenizer_io
    from workloads.data.chat_templates import loading
    from workloads.data.prepared import datasets_for

    spec = SFTJob.model_validate(job(dataset={"packing": False}, training={"sequenceLength": LENGTH})).spec
    template = loading.load("HumanAssistant", None, tokenizer_io.load_tokenizer(folder / "base"))
    found = SimpleNamespace(path=folder / "train.json", digest="sha256:0", uri="train.json")
    prepared = datasets_for(spec, {"dataset.train[0]": found}, template, folder / "cache", 42, log=lambda line: None)
    return prepared.train
