"""`python -m workloads.sft`: what is trained, what is not, and what lies at the output."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.runs import Ended, Place, job


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def model_weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def done(ended: Ended) -> Ended:
    assert ended.exit_code == 0, ended.text
    return ended


def test_an_adapter_is_published_with_everything_that_belongs_to_it(place: Place) -> None:
    ended = done(place.run(job(dataset={"validationSplit": 0.2}, training={"epochs": 2, "reportTo": ["TensorBoard"]})))
    out = place.folder / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "artifact.json",
        "chat_template.jinja",
        "generation_config.json",
        "loss.csv",
        "loss.png",
        "runs",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    artifact = json.loads((out / "artifact.json").read_text(encoding="utf-8"))
    assert artifact["kind"] == "LoRAAdapter"
    assert artifact["resolvedPolicy"] == ended.termination["resolvedPolicy"]
    assert set(artifact["metrics"]) == {
        "goodputSteps",
        "goodputTime",
        "steps",
        "epochs",
        "tokens",
        "trainLoss",
        "finalLoss",
        "evalLoss",
        "perplexity",
        "meanTokenAccuracy",
    }
    assert artifact["metrics"]["evalLoss"] == ended.evaluations[max(ended.evaluations)]
    assert {entry["path"].partition("/")[0] for entry in artifact["files"]} >= {"runs", "README.md"}
    assert str(place.folder) not in (out / "README.md").read_text(encoding="utf-8")
    assert not (place.folder / "out.checkpoints").exists()


def test_only_the_adapter_moves(place: Place) -> None:
    before = model_weights(place.folder / "base")
    done(place.run(job(training={"epochs": 2})))
    trained = weights(place.folder / "out")
    # Seven projections in two layers, two matrices each. B starts at zero: it has moved where it is not zero.
    assert len(trained) == 2 * 7 * 2
    assert all(value.abs().max() > 0 for name, value in trained.items() if "lora_B" in name)
    after = model_weights(place.folder / "base")
    assert all((before[name] == after[name]).all() for name in before)


def test_the_only_step_of_a_short_run_teaches_something(place: Place) -> None:
    """Known as adapters that are all zeros: a warm-up begins at a learning rate of 0, and one step of it was all there was."""
    done(place.run(job(training={"maxSteps": 1, "learningRate": 1e-3})))
    trained = weights(place.folder / "out")
    assert all(value.abs().max() > 5e-4 for name, value in trained.items() if "lora_B" in name)


def test_a_run_after_which_no_weight_has_moved_fails(place: Place) -> None:
    spec = job(method="Full", training={"maxSteps": 2, "learningRate": 1e-30})
    for _ in range(2):  # the second goes on from the last checkpoint, and finds the same
        ended = place.run(spec)
        assert ended.exit_code == 64, ended.text
        assert ended.termination["message"] == (
            "after 2 optimizer steps every weight is what it was before: nothing was learnt, and nothing is published. Raise "
            "training.learningRate (now 1e-30), or set training.precision (now Auto) to fp32, where smaller steps count"
        )
    assert not (place.folder / "out").exists()


def test_the_loss_falls(place: Place) -> None:
    ended = done(place.run(job(method="Full", training={"epochs": 12, "learningRate": 5e-3})))
    first, last = ended.losses[1], ended.losses[max(ended.losses)]
    assert last < 0.6 * first


def test_every_weight_of_a_whole_model_moves(place: Place) -> None:
    before = model_weights(place.folder / "base")
    done(place.run(job(method="Full", training={"epochs": 2})))
    after = model_weights(place.folder / "out")
    assert after.keys() == before.keys()
    assert [name for name in before if (before[name] == after[name]).all()] == []
    config = json.loads((place.folder / "out" / "config.json").read_text())
    assert config["use_cache"] is True, "without a cache, generating is many times slower"


@pytest.mark.parametrize(
    ("lora", "expected"),
    [
        pytest.param({"useRslora": True, "rank": 16}, {"use_rslora": True, "r": 16}, id="rsLoRA"),
        pytest.param({"useDora": True}, {"use_dora": True}, id="DoRA"),
        pytest.param({"targetModules": ["q_proj"]}, {"target_modules": ["q_proj"]}, id="one layer"),
        pytest.param(
            {"modulesToSave": ["embed_tokens", "lm_head"]},
            {"modules_to_save": ["embed_tokens", "lm_head"]},
            id="embeddings and head",
        ),
    ],
)
def test_the_adapter_is_of_the_kind_that_was_asked_for(
    lora: dict[str, Any], expected: dict[str, Any], place: Place
) -> None:
    done(place.run(job(lora=lora)))
    config = json.loads((place.folder / "out" / "adapter_config.json").read_text())
    assert {key: config[key] for key in expected} == expected
    names = weights(place.folder / "out")
    assert any("lora_magnitude_vector" in name for name in names) is bool(lora.get("useDora"))
    assert any("embed_tokens" in name for name in names) is ("modulesToSave" in lora)


def test_training_goes_on_from_an_adapter(place: Place) -> None:
    done(place.run(job(output={"uri": "first"}, lora={"rank": 4, "alpha": 8}, training={"epochs": 3})))
    ended = done(place.run(job(output={"uri": "second"}, adapter={"uri": "first"}, training={"epochs": 1})))
    config = json.loads((place.folder / "second" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    first, second = weights(place.folder / "first"), weights(place.folder / "second")
    assert first.keys() == second.keys()
    again = done(place.run(job(output={"uri": "third"}, lora={"rank": 4, "alpha": 8}, training={"epochs": 1})))
    assert ended.losses[1] < again.losses[1], "it starts from what the first had learnt"


def test_the_best_is_published_after_an_early_stop(place: Place) -> None:
    ended = done(
        place.run(
            job(
                dataset={"validationSplit": 0.3},
                training={"epochs": 40, "evalSteps": 2, "earlyStoppingPatience": 2, "learningRate": 0.3},
            )
        )
    )
    best = min(ended.evaluations.values())
    best_step = min(step for step, loss in ended.evaluations.items() if loss == best)
    assert max(ended.evaluations) == best_step + 2 * 2, "two evaluations without a gain"
    metrics = ended.termination["metrics"]
    assert (metrics["evalLoss"], metrics["bestStep"]) == (best, best_step)

    # The published weights are those of the best step: one step more from them, at next to no learning rate, evaluates alike.
    again = done(
        place.run(
            job(
                output={"uri": "again"},
                adapter={"uri": "out"},
                dataset={"validationSplit": 0.3},
                training={"maxSteps": 1, "learningRate": 1e-9},
            )
        )
    )
    assert again.evaluations[1] == pytest.approx(best, abs=1e-6)


def test_noise_on_the_embeddings_changes_the_training_and_not_the_evaluation(place: Place) -> None:
    settings = {"dataset": {"validationSplit": 0.3}, "lora": {"dropout": 0}}
    step = {"maxSteps": 1, "learningRate": 1e-9}  # which moves next to nothing
    plain = done(place.run(job(output={"uri": "plain"}, training=step, **settings)))
    noisy = done(place.run(job(output={"uri": "noisy"}, training={**step, "neftuneAlpha": 30}, **settings)))
    assert abs(noisy.losses[1] - plain.losses[1]) > 1e-3
    assert noisy.evaluations[1] == pytest.approx(plain.evaluations[1], abs=1e-6)


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
def test_rope_scaling_reaches_beyond_the_base(kind: str, place: Place) -> None:
    ended = done(
        place.run(
            job(
                method="Full",
                model={"ropeScaling": {"type": kind, "factor": 2}},
                training={"sequenceLength": 1024, "maxSteps": 1},
            )
        )
    )
    assert ended.losses[1] > 0
    config = json.loads((place.folder / "out" / "config.json").read_text())
    assert config["rope_parameters"]["rope_type"] == kind
    assert config["rope_parameters"]["factor"] == 2
    assert config["max_position_embeddings"] == (512 if kind == "dynamic" else 1024)


def test_a_second_run_of_the_same_file_is_reused(place: Place) -> None:
    done(place.run(job()))
    again = done(place.run(job()))
    assert again.losses == {}
    assert again.termination["output"]["reused"] is True


def test_the_same_file_gives_the_same_weights(place: Place) -> None:
    done(place.run(job(output={"uri": "one"})))
    done(place.run(job(output={"uri": "two"})))
    one, two = ((place.folder / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_curves_hold_every_step_once_though_the_run_was_stopped(place: Place) -> None:
    import signal

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    spec = job(training={"epochs": 3, "reportTo": ["TensorBoard"]})
    stopped = place.run(spec, at=lambda line: signal.SIGTERM if line.get("step") == 5 else None)
    assert stopped.exit_code == 75
    done(place.run(spec))
    curves = EventAccumulator(str(place.folder / "out" / "runs"))
    curves.Reload()
    steps = [event.step for event in curves.Scalars("train/loss")]
    assert steps == list(range(1, len(steps) + 1))
    assert "train/mean_token_accuracy" in curves.Tags()["scalars"]


def test_gradient_checkpointing_leaves_the_losses_as_they_are(place: Place) -> None:
    plain = done(place.run(job(output={"uri": "plain"})))
    saved = done(place.run(job(output={"uri": "saved"}, training={"gradientCheckpointing": "Full"})))
    assert saved.losses == pytest.approx(plain.losses, abs=1e-6)


def test_bfloat16_on_a_cpu_is_autocast(place: Place) -> None:
    ended = done(place.run(job(training={"precision": "bf16", "maxSteps": 3})))
    assert ended.termination["resolvedPolicy"]["precision"] == "bf16"
    assert all(value.dtype.itemsize == 4 for value in weights(place.folder / "out").values()), "the adapter is float32"


def test_a_tied_model_keeps_one_matrix_for_both_ends(place: Place) -> None:
    done(place.run(job(model={"uri": "tied"}, method="Full")))
    names = model_weights(place.folder / "out")
    assert "lm_head.weight" not in names
    before, after = model_weights(place.folder / "tied"), names
    assert (before["model.embed_tokens.weight"] != after["model.embed_tokens.weight"]).any()


def test_few_steps_are_told(place: Place) -> None:
    ended = done(place.run(job(training={"gradientAccumulation": 8})))
    (warning,) = [message for message in ended.messages if message.startswith("warning")]
    assert warning == (
        "warning: 3 optimizer steps in all (8 sequences each): for more, lower training.gradientAccumulation (now 8) or raise "
        "training.epochs (now 1)"
    )


def test_what_each_source_gives_is_told_in_log_artifact_and_card(place: Place) -> None:
    train = [{"uri": "train.json", "weight": 2}, {"uri": "other.json", "maxRows": 5}]
    shutil.copy(place.folder / "train.json", place.folder / "other.json")
    ended = done(place.run(job(dataset={"train": train}, training={"epochs": 1.5})))
    artifact = json.loads((place.folder / "out" / "artifact.json").read_text(encoding="utf-8"))
    first, second = artifact["resolvedPolicy"]["mixture"]
    rows = len(json.loads((place.folder / "train.json").read_text(encoding="utf-8")))
    assert (first["source"], first["rows"], first["epochs"]) == ("dataset.train[0]", 2 * rows, 3)
    assert (second["source"], second["rows"], second["epochs"]) == ("dataset.train[1]", 5, 1.5)
    assert first["tokens"] > second["tokens"] > 0
    line = f"mixture: dataset.train[1]: 5 rows an epoch of {rows} there, "
    assert any(message.startswith(f"data: {line}") for message in ended.messages)
    card = (
        (place.folder / "out" / "README.md").read_text(encoding="utf-8").replace("\\", "")
    )  # a Markdown reader shows none
    assert f"- {line}" in card
