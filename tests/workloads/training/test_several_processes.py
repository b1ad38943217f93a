"""Two processes train as one with twice the accumulation, go on after a kill as if nothing had happened, and fail as one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.workloads import library
from tests.workloads.runs import Ended, Line, Place, job, merged

TWO = {"parallelism": {"processesPerNode": 2}}
CLOSE = 2e-5
"""Float32 sums in another order."""

Job = Callable[..., dict[str, Any]]

# 17 sequences, or 41 of blocks: neither is a multiple of what two processes see at once, so that rows are filled up.
SFT: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "an adapter on packed rows, by plain data parallelism": (
        None,
        {"lora": {"dropout": 0}, "dataset": {"validationSplit": 0.15}, "training": {"logSteps": 2}},
    ),
    "a whole model under ZeRO-2": (
        {"preset": "Zero2"},
        {
            "method": "Full",
            "dataset": {"packing": False, "validationSplit": 0.15},
            "training": {"batchSizePerDevice": 3, "learningRate": 3e-3},
        },
    ),
    "an adapter with saved embeddings under ZeRO-3": (
        {"preset": "Zero3"},
        {"lora": {"dropout": 0, "modulesToSave": ["embed_tokens", "lm_head"]}, "dataset": {"validationSplit": 0.15}},
    ),
}


@pytest.mark.parametrize("case", SFT)
def test_fine_tuning(case: str, place: Place) -> None:
    deepspeed, spec = SFT[case]
    spec = merged({"training": {"epochs": 2, "evalSteps": 4, "saveSteps": 3}}, spec)
    published = "model" if spec.get("method") == "Full" else "adapter"
    _two_are_as_one(place, job, deepspeed, spec, again={published: {"uri": "whole"}})


PRETRAINING: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "embeddings of a grown vocabulary under ZeRO-3": (
        {"preset": "Zero3"},
        {"tokenizer": {"uri": "vocab"}, "trainable": "Embeddings"},
    ),
    "from scratch under a configuration of one's own": (
        {
            "config": {
                "zero_optimization": {"stage": 2, "reduce_bucket_size": 1e6},
                "gradient_clipping": "auto",
                "gradient_accumulation_steps": "auto",
                "train_batch_size": "auto",
                "train_micro_batch_size_per_gpu": "auto",
                "zero_allow_untested_optimizer": True,
            }
        },
        {"model": None, "init": {"config": {"uri": "base"}}, "tokenizer": {"uri": "vocab"}},
    ),
}


@pytest.mark.parametrize("case", PRETRAINING)
def test_pretraining(case: str, study: Place) -> None:
    deepspeed, spec = PRETRAINING[case]
    training = {"maxSteps": 9, "evalSteps": 4, "saveSteps": 3, "learningRate": 3e-3}
    again = {"model": {"uri": "whole"}, "init": None, "tokenizer": None, "trainable": "Full"}
    _two_are_as_one(study, library.job, deepspeed, merged({"training": training}, spec), again)


def _two_are_as_one(
    place: Place, make: Job, deepspeed: dict[str, Any] | None, spec: dict[str, Any], again: dict[str, Any]
) -> None:
    """``again``: what makes a job of one process that begins with what was published."""
    accumulated = 2 * make(**spec)["spec"]["training"]["gradientAccumulation"]
    one = done(
        place.run(make(**merged(spec, {"training": {"gradientAccumulation": accumulated}}), output={"uri": "one"}))
    )
    two = {**spec, **TWO, **({"deepspeed": deepspeed} if deepspeed else {})}
    whole = done(place.run(make(**two, output={"uri": "whole"})))

    assert whole.losses == pytest.approx(one.losses, abs=CLOSE)
    assert whole.evaluations == pytest.approx(one.evaluations, abs=CLOSE)
    metrics, expected = whole.termination["metrics"], one.termination["metrics"]
    assert metrics["tokens"] == expected["tokens"]
    assert metrics["meanTokenAccuracy"] == pytest.approx(expected["meanTokenAccuracy"], abs=1e-3)
    assert metrics.get("bitsPerByte") == pytest.approx(expected.get("bitsPerByte"), abs=CLOSE)
    assert _shapes(place.folder / "whole") == _shapes(place.folder / "one")

    last = max(whole.losses)
    stopped = place.run(make(**two, output={"uri": "broken"}), at=_at_step(2, signal.SIGTERM))
    assert (stopped.exit_code, stopped.termination["reason"]) == (75, "Interrupted"), stopped.text
    assert stopped.text.splitlines()[-1].startswith("Interrupted: stopped after step ")
    killed = place.run(make(**two, output={"uri": "broken"}), at=_at_step(last - 1, signal.SIGKILL))
    assert killed.exit_code == -signal.SIGKILL
    resumed = done(place.run(make(**two, output={"uri": "broken"})))
    assert min(killed.losses) > max(stopped.losses), "it goes on where it was stopped"
    assert min(resumed.losses) > 1, "it goes on where it was killed"
    assert stopped.losses | killed.losses | resumed.losses == whole.losses
    for ended in (stopped, killed, resumed):
        assert ended.losses.items() <= whole.losses.items()
        assert ended.evaluations.items() <= whole.evaluations.items()
    assert resumed.metrics == whole.metrics
    assert _bytes(place.folder / "broken") == _bytes(place.folder / "whole")

    # A step this small moves next to nothing: its evaluation is that of the weights that were published.
    first = {"training": {"maxSteps": 1, "evalSteps": 1, "learningRate": 1e-9}}
    reloaded = done(place.run(make(**merged(merged(spec, first), again), output={"uri": "again"})))
    assert reloaded.evaluations[1] == pytest.approx(metrics["evalLoss"], abs=CLOSE)


# Failures


def test_a_process_that_is_killed_ends_the_run_at_once_and_the_next_goes_on(place: Place) -> None:
    spec = {"training": {"epochs": 8, "saveSteps": 2, "learningRate": 1e-4}, **TWO}
    whole = done(place.run(job(**spec, output={"uri": "whole"})))
    killed_at = 0.0

    def at(line: Line) -> int | None:
        nonlocal killed_at
        if line.get("step") == 5 and not killed_at:
            killed_at = time.monotonic()
            os.kill(_second_process(place), signal.SIGKILL)
        return None

    ended = place.run(job(**spec), at=at)
    assert ended.exit_code == 70, ended.text
    assert ended.termination["rank"] == 1
    assert ended.termination["message"] == (
        "process 1 was ended by SIGKILL, from outside: run again to go on from the newest checkpoint; should it happen again, see whether the "
        "machine is short of memory"
    )
    assert ended.text.splitlines()[-1].startswith("WorkloadError: rank 1: process 1 was ended by SIGKILL")
    assert ended.termination["checkpoint"]["step"] >= 4
    resumed = done(place.run(job(**spec)))
    assert min(resumed.losses) > 4
    assert resumed.losses.items() <= whole.losses.items()


def _second_process(place: Place) -> int:
    """The process that the run in ``place`` has started last."""
    at = str(place.folder.resolve())
    return max(process.pid for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == at)


def test_a_bad_row_is_told_once_and_the_data_are_prepared_once(place: Place) -> None:
    (place.folder / "bad.jsonl").write_text('{"instruction": "问", "output": "答"}\n{"instruction": "问"}\n')
    ended = place.run(job(dataset={"train": [{"uri": "bad.jsonl"}]}, **TWO))
    assert ended.exit_code == 65, ended.text
    assert ended.termination["rank"] == 0
    assert "bad.jsonl" in ended.termination["message"]
    assert ended.text.count("InvalidData: rank 0: ") == 1
    assert "Traceback" not in ended.text

    fine = done(place.run(job(**TWO, training={"maxSteps": 2})))
    assert sum("conversations read" in message for message in fine.messages) == 1
    assert not any(message.startswith("data: found prepared") for message in fine.messages)


@pytest.mark.parametrize("stage", ["Loading", "Preparing"])
def test_a_stop_before_the_first_step_ends_both(stage: str, place: Place) -> None:
    def at(line: Line) -> int | None:
        return signal.SIGTERM if line.get("stage") == stage else None

    ended = place.run(job(**TWO), at=at)
    assert ended.exit_code == 75, ended.text
    assert ended.termination["message"] == "stopped before the first step: run again to start"


def done(ended: Ended) -> Ended:
    assert ended.exit_code == 0, ended.text
    return ended


def _at_step(step: int, number: signal.Signals) -> Callable[[Line], int | None]:
    sent = False

    def at(line: Line) -> int | None:
        nonlocal sent
        if sent or line.get("step", 0) < step:
            return None
        sent = True
        return number

    return at


def _weights(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


def _bytes(folder: Path) -> bytes:
    return _weights(folder).read_bytes()


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    from safetensors.torch import load_file

    return {name: tuple(weight.shape) for name, weight in load_file(_weights(folder)).items()}
