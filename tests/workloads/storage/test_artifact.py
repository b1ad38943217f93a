"""Outputs: published whole or not at all, taken as they are only when they are whole, and never put over another's."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api import SFTJob
from tests.workloads.process import Place, train
from workloads.storage.artifact import fingerprint_fields
from workloads.storage.sources import Input, Inputs


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def artifact(place: Place) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((place.output / "artifact.json").read_text())
    return content


def test_an_artifact_says_what_it_is_and_what_it_was_made_from(place: Place) -> None:
    body = 'runtime.resolved({"precision": "fp32"})\n' + train()
    place.run(body, "--training.learningRate", "2e-4", "--name", "poet")

    found = artifact(place)
    digest = found["inputs"]["model"]["digest"]
    rows = found["inputs"]["dataset.train[0]"]["digest"]
    assert {key: found[key] for key in ("kind", "job", "metrics", "resolvedPolicy", "spec")} == {
        "kind": "LoRAAdapter",
        "job": {"kind": "SFTJob", "name": "poet"},
        "metrics": {"evalLoss": 0.5},
        "resolvedPolicy": {"precision": "fp32"},
        "spec": {
            "model": {"digest": digest},
            "dataset": {"train": [{"digest": rows}]},
            "training": {"maxSteps": 4, "learningRate": 0.0002},
        },
    }
    assert [file["path"] for file in found["files"]] == ["adapter.safetensors"]
    assert found["inputs"]["model"]["uri"] == "model"
    assert set(found["versions"]) == {"python", "literary-alpaca"}


def test_made_again_it_has_the_same_digest_although_its_card_tells_another_time(place: Place) -> None:
    """Else every consumer of a job that was made again would train anew."""
    body = train().replace(
        '(folder / "adapter.safetensors")', '(folder / "README.md").write_text(str(time.time()))\n    (folder / "adapter.safetensors")'
    )  # fmt: skip
    digests = []
    for out in ("out", "again"):
        place.run(body, "--output.uri", out)
        digests.append(json.loads((place.folder / out / "artifact.json").read_text()))
    first, second = digests
    assert [file["path"] for file in first["files"]] == ["README.md", "adapter.safetensors"]
    assert first["files"][0] != second["files"][0]
    assert first["digest"] == second["digest"]


def test_no_secret_reaches_an_artifact(place: Place) -> None:
    place.run(train(), "--pod.env", "[{name: HF_TOKEN, value: hf_secret}]", "--model.secretRef.name", "hub")

    assert "hf_secret" not in (place.output / "artifact.json").read_text()


def missing(output: Path) -> None:
    (output / "adapter.safetensors").unlink()


def cut(output: Path) -> None:
    (output / "adapter.safetensors").write_text("tra")


def rotten(output: Path) -> None:
    (output / "adapter.safetensors").write_text("TRAINED FROM 0 TO 4")


@pytest.mark.parametrize(
    ("harm", "damage"),
    [
        pytest.param(missing, "adapter.safetensors is missing", id="a file is missing"),
        pytest.param(cut, "adapter.safetensors has 3 bytes instead of 19", id="a file is cut short"),
        pytest.param(rotten, "the content of adapter.safetensors has changed", id="a file has other content"),
    ],
)
def test_a_damaged_artifact_is_made_again(place: Place, harm: Callable[[Path], None], damage: str) -> None:
    place.run(train())
    harm(place.output)

    ended = place.run(train())

    assert ended.code == 0
    assert f"the artifact at out is damaged ({damage}): it is made again" in ended.messages
    assert (place.output / "adapter.safetensors").read_text() == "trained from 0 to 4"


NOBODY_S = "spec.output.uri: out has files but no artifact.json, so they are not ours to replace: name another folder, or remove it"
UNREADABLE = (
    "spec.output.uri: the artifact.json in out cannot be read, so nobody knows whose these files are: copy the folder again, name another "
    "one, or remove it"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, NOBODY_S, id="gone"),
        pytest.param(b"{", UNREADABLE, id="broken off"),
        pytest.param(b"\xff\xfe\x00", UNREADABLE, id="no text"),
        pytest.param(b"", UNREADABLE, id="empty"),
    ],
)
def test_an_artifact_without_its_artifact_json_is_nobody_s(place: Place, content: bytes | None, message: str) -> None:
    place.run(train())
    if content is None:
        (place.output / "artifact.json").unlink()
    else:
        (place.output / "artifact.json").write_bytes(content)

    ended = place.run(train(), "--output.overwrite")

    assert (ended.last_word["reason"], ended.last_word["message"]) == ("OutputExists", message)
    assert (place.output / "adapter.safetensors").exists()


def test_an_artifact_is_known_as_an_input_by_its_own_digest(place: Place) -> None:
    body = train().replace('"adapter.safetensors"', '"config.json"')
    first = place.run(body)

    ended = place.run(
        "runtime.progress.log(runtime.inputs['model'].digest)", "--model.uri", "out", "--output.uri", "second"
    )

    assert ended.messages[0] == first.last_word["output"]["digest"]


def test_a_run_killed_while_it_saves_leaves_no_output(place: Place) -> None:
    body = """
with runtime.output("Model", {}) as folder:
    (folder / "half").write_text("half")
    runtime.progress.log("saving")
    time.sleep(600)
"""
    run = place.start(body)
    run.until(lambda said: "saving" in said)
    run.send(signal.SIGKILL)
    run.end()

    assert not place.output.exists()
    assert [path.name.startswith(".out.") for path in place.folder.glob(".out*")] == [True]

    assert place.run(train()).code == 0
    assert list(place.folder.glob(".out*")) == []
    assert not (place.output / "half").exists()


def test_a_failure_while_it_saves_leaves_nothing(place: Place) -> None:
    ended = place.run('with runtime.output("Model", {}) as folder:\n    raise DataError("no")')

    assert ended.code == 65
    assert list(place.folder.glob(".out*")) == []
    assert not place.output.exists()


def test_an_old_output_survives_a_crash_in_the_middle_of_its_replacement(place: Place) -> None:
    place.run(train())
    place.output.rename(place.folder / ".out.crashed.replaced")  # the machine died before the new one got there

    ended = place.run("raise AssertionError('it ran')")

    assert ended.last_word["reason"] == "Reused"
    assert (place.output / "adapter.safetensors").exists()


def test_what_an_output_of_a_longer_name_is_writing_is_left_alone(place: Place) -> None:
    for name in (".out.v2.run.partial", ".out.v2.run.replaced", ".out.v2.checkpoints.run.discarded"):
        (place.folder / name).mkdir()

    assert place.run(train()).code == 0
    assert len(list(place.folder.glob(".out.v2.*"))) == 3


def test_checkpoints_that_a_crash_left_after_publishing_are_removed(place: Place) -> None:
    place.run(train())
    (place.checkpoints / "run-x" / "checkpoint-1").mkdir(parents=True)

    assert place.run("raise AssertionError('it ran')").last_word["reason"] == "Reused"
    assert not place.checkpoints.exists()


def test_others_may_read_what_is_published(place: Place) -> None:
    place.run(train())

    assert place.output.stat().st_mode & 0o555 == 0o555


def job(**spec: Any) -> SFTJob:
    whole = {"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d"}]}, "output": {"uri": "o"}} | spec
    return SFTJob.model_validate({"metadata": {"name": "poet"}, "spec": whole})


INPUTS = Inputs({"model": Input("m", Path("m"), "sha256:1"), "dataset.train[0]": Input("d", Path("d"), "sha256:2")})


def test_what_a_job_is_made_from_is_told_by_what_was_set_and_what_lay_there() -> None:
    spec = job(
        method="Full",
        merge=False,
        training={"epochs": 3, "seed": 7, "logSteps": 9},
        pod={"image": "x"},
        failurePolicy={"maxRestarts": 1},
        suspend=True,
    ).spec

    assert fingerprint_fields(spec, INPUTS) == {
        "model": {"digest": "sha256:1"},
        "dataset": {"train": [{"digest": "sha256:2"}]},
        "method": "Full",
        "training": {"seed": 7},
    }
