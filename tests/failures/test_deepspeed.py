"""DeepSpeed: it is really used, resumes exactly, and what it saves is whole."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.runs import Ended, Place, job, merged


def whole(folder: Path) -> dict[str, Any]:
    """The saved weights; none is empty."""
    from safetensors.torch import load_file

    (path,) = folder.glob("*.safetensors")
    weights = load_file(path)
    assert weights
    assert [name for name, value in weights.items() if value.numel() == 0] == []
    return dict(weights)


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in whole(folder).items()}


def done(ended: Ended) -> Ended:
    assert ended.exit_code == 0, ended.text
    return ended


@pytest.mark.parametrize(
    ("preset", "processes"),
    [
        ("Zero2", 1),
        pytest.param("Zero2", 2, marks=pytest.mark.drill),
        pytest.param("Zero3", 1, marks=pytest.mark.drill),
        ("Zero3", 2),
    ],
)
def test_embeddings_of_an_adapter_are_saved_whole_and_are_those_that_were_trained(
    preset: str, processes: int, place: Place
) -> None:
    """Known as adapters whose embeddings are absent, or of shape [0]."""
    spec: dict[str, Any] = {
        "lora": {"modulesToSave": ["embed_tokens", "lm_head"], "dropout": 0},
        "training": {"epochs": 2, "saveSteps": 4},
    }
    plain = done(
        place.run(job(**merged(spec, {"training": {"gradientAccumulation": 2 * processes}}), output={"uri": "plain"}))
    )
    zero = job(
        output={"uri": "zero"}, deepspeed={"preset": preset}, parallelism={"processesPerNode": processes}, **spec
    )
    stopped = place.run(zero, at=lambda line: signal.SIGTERM if line.get("step") == 5 else None)
    assert stopped.exit_code == 75, stopped.text
    resumed = done(place.run(zero))
    assert min(resumed.losses) > 4
    assert stopped.losses | resumed.losses == pytest.approx(plain.losses, abs=2e-5)
    assert resumed.termination["resolvedPolicy"]["parallel"] == preset
    found, expected = whole(place.folder / "zero"), whole(place.folder / "plain")
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in expected.items()
    }
    assert all((found[name] - expected[name]).abs().max() < 1e-3 for name in expected)


@pytest.mark.parametrize("preset", ["Zero2", "Zero3"])
def test_a_whole_model_is_saved_whole(preset: str, place: Place) -> None:
    spec: dict[str, Any] = {"method": "Full", "training": {"learningRate": 1e-3}}
    plain = done(place.run(job(output={"uri": "plain"}, **spec)))
    zero = done(place.run(job(output={"uri": "zero"}, deepspeed={"preset": preset, "offload": "CPU"}, **spec)))
    assert zero.losses == pytest.approx(plain.losses, abs=1e-5)
    assert shapes(place.folder / "zero") == shapes(place.folder / "plain")


SCHEDULER = {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto"}


def own_config(**scheduler: Any) -> dict[str, Any]:
    """A DeepSpeed configuration with a schedule of its own."""
    return {
        "zero_optimization": {"stage": 2},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "zero_allow_untested_optimizer": True,
        "scheduler": {"type": "WarmupLR", "params": {**SCHEDULER, **scheduler}},
    }


def test_a_configuration_that_overrides_the_schedule_is_warned_about(place: Place) -> None:
    ended = done(place.run(job(deepspeed={"config": own_config()})))
    assert (
        "warning: deepspeed.config has a block `scheduler`, which overrides training.scheduler and training.warmupRatio: remove it to "
        "use them"
    ) in ended.messages


def test_a_configuration_that_contradicts_the_settings_is_refused(place: Place) -> None:
    ended = place.run(job(deepspeed={"config": own_config(warmup_num_steps=2)}))
    assert ended.exit_code == 64
    assert ended.termination["message"] == (
        "deepspeed.config contradicts training (ds scheduler.params.warmup_num_steps=2 vs hf warmup_steps=1): set these values to auto"
    )


def test_the_best_is_published_under_zero_3(place: Place) -> None:
    dataset = {"validationSplit": 0.3}
    training = {"epochs": 40, "evalSteps": 2, "earlyStoppingPatience": 2, "learningRate": 0.3}
    zero = done(place.run(job(dataset=dataset, deepspeed={"preset": "Zero3"}, training=training)))
    best = zero.termination["metrics"]
    assert best["bestStep"] < max(zero.evaluations)
    assert best["evalLoss"] == min(zero.evaluations.values())
    # A step this small moves next to nothing, so its evaluation is that of the published weights.
    step = {"maxSteps": 1, "learningRate": 1e-9}
    again = done(place.run(job(output={"uri": "again"}, adapter={"uri": "out"}, dataset=dataset, training=step)))
    assert again.evaluations[1] == pytest.approx(best["evalLoss"], abs=1e-5)
