"""Whether what lies in a folder is what was published: every file is compared, the large ones beside the run."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from alpaca_operator.api.contract import ARTIFACT_FILE, Artifact, ArtifactFile
from alpaca_operator.api.sources import ModelSource
from workloads.errors import InputError
from workloads.storage import contents
from workloads.storage.contents import Verification, content_digest, contents_differ
from workloads.storage.hashing import HashCache

OLD = time.time() - 3600
SHARDS = {f"model-{number}.safetensors": f"shard {number}".encode() for number in range(4)}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact of shards that are all larger than what is read at once."""
    monkeypatch.setattr(contents, "CHEAP_BYTES", 0)
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in SHARDS.items():
        (folder / name).write_bytes(content)
        os.utime(folder / name, (OLD, OLD))
    artifact = Artifact.model_validate({
        "kind": "Model", "job": {"kind": "SFTJob", "name": "poet"}, "digest": "sha256:" + "d" * 64, "specDigest": "sha256:" + "e" * 64,
        "inputs": {}, "files": files(), "createdAt": "2026-01-01T00:00:00Z",
    })  # fmt: skip
    (folder / ARTIFACT_FILE).write_text(artifact.to_json())
    return folder


def files() -> list[ArtifactFile]:
    return [
        ArtifactFile(path=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in SHARDS.items()
    ]


def change(model: Path) -> None:
    """Other content of the same size and time, as a copy that went wrong has."""
    (model / "model-2.safetensors").write_bytes(b"SHARD 2")
    os.utime(model / "model-2.safetensors", (OLD, OLD))


REFUSAL = (
    "spec.model.uri: m: what lies there is not what SFTJob poet published (the content of model-2.safetensors has changed): "
    "copy it again, or remove its artifact.json to take it as it is"
)


def digest(model: Path, memory: Path, later: Verification | None) -> str:
    hashes = later.hashes if later is not None else HashCache(memory)
    return content_digest(model, ModelSource(uri="m"), "spec.model.uri: m", hashes, later)


def test_a_changed_shard_of_any_size_is_found(model: Path, tmp_path: Path) -> None:
    assert contents_differ(model, files(), HashCache(tmp_path / "digests.json")) is None
    change(model)
    assert contents_differ(model, files(), HashCache(tmp_path / "digests.json")) == (
        "the content of model-2.safetensors has changed"
    )
    with pytest.raises(InputError) as refusal:
        digest(model, tmp_path / "digests.json", None)
    assert str(refusal.value) == REFUSAL


def test_large_files_are_compared_beside_the_run_and_a_changed_one_ends_it(model: Path, tmp_path: Path) -> None:
    change(model)
    later = Verification(HashCache(tmp_path / "digests.json"))
    assert digest(model, tmp_path / "digests.json", later) == "sha256:" + "d" * 64
    with pytest.raises(InputError) as refusal:
        later.finish()
    later.close()
    assert str(refusal.value) == REFUSAL


def test_what_was_compared_is_said_once_and_remembered(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "digests.json"
    said = []
    for _ in range(2):
        later = Verification(HashCache(memory))
        digest(model, memory, later)
        said.append([later.finish(), later.finish()])
        later.close()
        monkeypatch.setattr(HashCache, "compute", None)  # whoever reads again fails
    all_of_them = "spec.model.uri: m: all 4 files are what SFTJob poet published"
    assert said == [[[f"{all_of_them}, 4 of them (0.00 GiB) beside the run"], []], [[all_of_them], []]]


def test_a_run_that_ends_waits_for_no_file(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()

    def endless(self: HashCache, path: Path, heartbeat: object) -> str:
        while True:
            began.set()
            heartbeat()  # type: ignore[operator]
            time.sleep(0.01)

    monkeypatch.setattr(HashCache, "compute", endless)
    later = Verification(HashCache(tmp_path / "digests.json"))
    digest(model, tmp_path / "digests.json", later)
    began.wait()
    later.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("verifying")]
