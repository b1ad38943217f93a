"""`merge: true`: what is published when, and what a merge that fails costs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.workloads.runs import Ended, Place, job

TRAINING = {"maxSteps": 4, "saveSteps": 2, "learningRate": 1e-3}


def artifact(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
    return found


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def too_large_for_float16(place: Place) -> None:
    """Add a base in whose head one value is beyond float16, which the merge finds out when it has saved it."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(place.folder / "base", place.folder / "large")
    path = place.folder / "large" / "model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"][200, 0] = 1e5
    save_file(weights, path, metadata={"format": "pt"})


def merged(**spec: Any) -> dict[str, Any]:
    return job(**{"model": {"uri": "large"}, "merge": True, "training": TRAINING, **spec})


def test_a_merge_that_fails_costs_the_merge_alone(place: Place) -> None:
    too_large_for_float16(place)
    failed = place.run(merged(dtype="float16"))

    assert failed.exit_code == 64, failed.text
    assert sorted(failed.losses) == [1, 2, 3, 4]
    assert (
        "the adapter is whole at out: set merge to false, and it is the result, without training again"
        in failed.termination["message"]
    )
    out = place.folder / "out"
    assert artifact(out)["kind"] == "LoRAAdapter"
    assert "merge" not in artifact(out)["spec"]
    adapter = (out / "adapter_model.safetensors").read_bytes()

    for name in ("out", "out.checkpoints"):
        shutil.copytree(place.folder / name, place.folder / name.replace("out", "other"))
    alone = place.run(job(model={"uri": "large"}, training=TRAINING, output={"uri": "other"}))
    assert (alone.exit_code, alone.termination["output"]["reused"]) == (0, True)
    assert not (place.folder / "other.checkpoints").exists()

    again = place.run(merged(dtype="float32", maxShardSize="1MB"))
    assert again.exit_code == 0, again.text
    assert again.losses == {}, "no step was made again"
    assert (
        "out holds what this training published before a merge that did not end: the result takes its place"
        in again.messages
    )
    assert artifact(out)["kind"] == "Model"
    assert artifact(out)["spec"].keys() >= {"merge", "dtype", "maxShardSize"}
    assert (out / "adapter" / "adapter_model.safetensors").read_bytes() == adapter
    assert not (out / "adapter_model.safetensors").exists()
    assert not (place.folder / "out.checkpoints").exists()


def test_an_adapter_whose_job_is_over_is_not_replaced_by_a_merged_model(place: Place) -> None:
    def run(**spec: Any) -> Ended:
        return place.run(job(training={"maxSteps": 1}, **spec))

    assert run().exit_code == 0
    ended = run(merge=True)
    assert (ended.exit_code, ended.termination["reason"]) == (64, "OutputExists")
    assert artifact(place.folder / "out")["kind"] == "LoRAAdapter"


def test_checkpoints_of_a_version_that_digested_the_whole_spec_are_gone_on_from(place: Place) -> None:
    import signal

    spec = job(merge=True, training=TRAINING)
    stopped = place.run(spec, at=lambda line: signal.SIGTERM if line.get("step") == 2 else None)
    assert stopped.exit_code == 75, stopped.text
    checkpoints = place.folder / "out.checkpoints"
    run = json.loads((checkpoints / "run-id").read_text())
    assert run["specDigest"] != run["trainingDigest"]
    markers = list(checkpoints.glob("run-*/checkpoint-*/checkpoint.json"))
    assert markers
    for marker in markers:
        assert json.loads(marker.read_text())["specDigest"] == run["trainingDigest"]
        edit(marker, specDigest=run["specDigest"])

    resumed = place.run(spec)
    assert resumed.exit_code == 0, resumed.text
    assert min(resumed.losses) > 2


def adapter_of_another_kind(place: Place) -> dict[str, Any]:
    done = place.run(job(output={"uri": "pissa"}, training={"maxSteps": 1}))
    assert done.exit_code == 0, done.text
    (place.folder / "pissa" / "artifact.json").unlink()
    edit(place.folder / "pissa" / "adapter_config.json", init_lora_weights="pissa")
    return {"adapter": {"uri": "pissa"}}


def test_an_adapter_to_start_from_that_cannot_be_merged_is_refused_before_the_first_step(place: Place) -> None:
    ended = place.run(job(merge=True, training={"maxSteps": 1}, **adapter_of_another_kind(place)))
    assert (ended.exit_code, ended.losses) == (64, {})
    assert ended.termination["message"] == (
        "spec.adapter pissa was initialised by pissa, which takes its start out of the base: save it again as a plain LoRA "
        "(path_initial_model_for_weight_conversion in PEFT)"
    )


def test_another_dtype_publishes_a_whole_model_without_a_step(place: Place) -> None:
    """Stopped at its last step, so that the training is finished and nothing is published."""
    import signal

    spec = {"method": "Full", "training": TRAINING}
    stopped = place.run(job(**spec), at=lambda line: signal.SIGTERM if line.get("step") == 4 else None)
    assert stopped.exit_code == 75, stopped.text
    ended = place.run(job(dtype="float16", maxShardSize="0.05MB", **spec))
    assert ended.exit_code == 0, ended.text
    assert ended.losses == {}, "no step was made again"
    out = place.folder / "out"
    assert json.loads((out / "config.json").read_text())["dtype"] == "float16"
    assert len(list(out.glob("model-*.safetensors"))) > 1
