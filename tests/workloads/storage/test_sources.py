"""Inputs from every kind of place, outputs to every kind of place, and what is said of places that do not do."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.conversations import DataSource
from alpaca_operator.api.sources import AdapterSource, ModelSource, Source
from alpaca_operator.api.status import ResolvedInput
from tests.workloads.buckets import Store
from tests.workloads.hub_server import TOKEN, Hub
from tests.workloads.process import STEP_SECONDS, Ended, Place, train
from workloads.errors import InputError, SpecError, WorkloadError
from workloads.storage import sources
from workloads.storage.local import LocalFolder
from workloads.system.environment import Environment


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def runtime(folder: Path) -> Environment:
    return Environment.read(
        {"ALPACA_STORAGE": str(folder / "storage"), "ALPACA_CACHE": str(folder / "cache"), "ALPACA_RUN_ID": "r"}
    )


def locate(source: Source, folder: Path, field: str = "model") -> Path:
    return sources.locate(source, field, runtime(folder), lambda: None)


@pytest.fixture
def shelves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A claim `models` with a model, an adapter, a clone without its weights, an empty folder, and a file of rows beside."""
    monkeypatch.chdir(tmp_path)
    claim = tmp_path / "storage" / "models"
    for name, config in (("llama-2-7b", "config.json"), ("poet", "adapter_config.json"), ("clone", "config.json")):
        (claim / name).mkdir(parents=True)
        (claim / name / config).write_text("{}")
        (claim / name / "model.safetensors").write_text("weights")
    (claim / "clone" / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    (claim / "empty").mkdir()
    (claim / "nested" / "inner").mkdir(parents=True)
    (claim / "nested" / "inner" / "config.json").write_text("{}")
    (tmp_path / "rows.csv").write_text("text\n")
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        pytest.param("pvc://models/llama-2-7b", "storage/models/llama-2-7b", id="a claim"),
        pytest.param("pvc://models/llama-2-7b/", "storage/models/llama-2-7b", id="a claim, with a slash at the end"),
        pytest.param("storage/models/llama-2-7b", "storage/models/llama-2-7b", id="a relative path"),
        pytest.param("./storage/../storage/models/llama-2-7b", "storage/models/llama-2-7b", id="a path with dots"),
        pytest.param("file://{here}/storage/models/llama%2D2-7b", "storage/models/llama-2-7b", id="a file URL"),
        pytest.param("{here}/storage/models/llama-2-7b", "storage/models/llama-2-7b", id="an absolute path"),
    ],
)
def test_a_model_is_found(shelves: Path, uri: str, path: str) -> None:
    assert locate(ModelSource(uri=uri.format(here=shelves)), shelves) == shelves / path


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        pytest.param(
            ModelSource(uri="pvc://models/llama2-7b"),
            InputError,
            "spec.model.uri: pvc://models/llama2-7b: {here}/storage/models/llama2-7b does not exist: {here}/storage/models holds clone/, empty/, "
            "llama-2-7b/, nested/, poet/; did you mean llama-2-7b?",
            id="a name nearly right",
        ),
        pytest.param(
            ModelSource(uri="pvc://nodels/llama-2-7b"),
            InputError,
            "spec.model.uri: pvc://nodels/llama-2-7b: {here}/storage/nodels/llama-2-7b does not exist: {here}/storage holds models/; did you mean models?",
            id="a claim nearly right",
        ),
        pytest.param(
            DataSource(uri="rows.csv/part"),
            InputError,
            "spec.model.uri: rows.csv/part: {here}/rows.csv/part does not exist, because {here}/rows.csv is a file",
            id="below a file",
        ),
        pytest.param(
            DataSource(uri="pvc://models/empty"),
            InputError,
            "spec.model.uri: pvc://models/empty: the folder {here}/storage/models/empty is empty",
            id="an empty folder",
        ),
        pytest.param(
            DataSource(uri="/dev/null"),
            InputError,
            "spec.model.uri: /dev/null: /dev/null is neither a file nor a folder: a pipe or device cannot be read twice",
            id="a device",
        ),
        pytest.param(
            ModelSource(uri="pvc://models/poet"),
            InputError,
            "spec.model.uri: pvc://models/poet: {here}/storage/models/poet has no config.json but adapter_config.json: that is an adapter: name its base there, and the "
            "adapter where the spec takes one, or merge them first (MergeJob); it holds adapter_config.json, model.safetensors",
            id="an adapter for a model",
        ),
        pytest.param(
            AdapterSource(uri="pvc://models/llama-2-7b"),
            InputError,
            "spec.model.uri: pvc://models/llama-2-7b: {here}/storage/models/llama-2-7b has no adapter_config.json but config.json: that is a model: name it under model; "
            "it holds config.json, model.safetensors",
            id="a model for an adapter",
        ),
        pytest.param(
            ModelSource(uri="pvc://models/nested"),
            InputError,
            "spec.model.uri: pvc://models/nested: {here}/storage/models/nested has no config.json; inner below it does; it holds inner",
            id="the folder above the model",
        ),
        pytest.param(
            ModelSource(uri="rows.csv"),
            InputError,
            "spec.model.uri: rows.csv: {here}/rows.csv is a file: name the folder that holds config.json",
            id="a file for a model",
        ),
        pytest.param(
            ModelSource(uri="pvc://models/clone"),
            InputError,
            "spec.model.uri: pvc://models/clone: {here}/storage/models/clone/model.safetensors is a Git LFS pointer, not the content: run `git lfs pull` "
            "in {here}/storage/models/clone, or copy the files from where they are whole",
            id="a clone without its weights",
        ),
        pytest.param(
            ModelSource(uri="pvc://models/../../etc"),
            SpecError,
            "spec.model.uri: pvc://models/../../etc leaves its claim: write pvc://<claim>/<path without ..>",
            id="out of the claim",
        ),
        pytest.param(
            ModelSource(uri="file://host/models"),
            SpecError,
            "spec.model.uri: file://host/models names the host 'host': write file:///path, with three slashes",
            id="two slashes",
        ),
        pytest.param(
            ModelSource(uri="hf://llama"),
            SpecError,
            "spec.model.uri: hf://llama: write hf://org/name, hf://org/name@revision or hf://org/name@revision/path",
            id="a hub name without its organisation",
        ),
        pytest.param(
            ModelSource(uri="s3://bucket"),
            SpecError,
            "spec.model.uri: s3://bucket: write s3://bucket/key",
            id="a whole bucket",
        ),
    ],
)
def test_what_cannot_be_used_is_named_with_what_lies_there(
    shelves: Path, source: Source, error: type[WorkloadError], message: str
) -> None:
    with pytest.raises(error) as refused:
        locate(source, shelves)

    assert str(refused.value) == message.format(here=shelves)


@pytest.mark.parametrize(
    ("output", "reason", "message"),
    [
        pytest.param(
            "model",
            "InvalidSpec",
            "spec.output.uri: model is the input spec.model (model): name another folder",
            id="the model",
        ),
        pytest.param(
            "model/out",
            "InvalidSpec",
            "spec.output.uri: model/out lies in the input spec.model (model): name another folder",
            id="within the model",
        ),
        pytest.param(
            ".",
            "InvalidSpec",
            "spec.output.uri: . contains the input spec.model (model): name another folder",
            id="around the model",
        ),
        pytest.param(
            "pvc://models",
            "InvalidSpec",
            "spec.output.uri: pvc://models is the root of its claim, which cannot be replaced at once: name a folder in it, such as pvc://models/result",
            id="a whole claim",
        ),
        pytest.param(
            "foreign",
            "OutputExists",
            "spec.output.uri: foreign has files but no artifact.json, so they are not ours to replace: name another folder, or remove it",
            id="a folder of somebody else's",
        ),
        pytest.param(
            "rows.jsonl/out",
            "InvalidSpec",
            "spec.output.uri: rows.jsonl/out lies in the input spec.dataset.train[0] (rows.jsonl): name another folder",
            id="below a file",
        ),
    ],
)
def test_an_output_that_would_harm_something_is_refused(place: Place, output: str, reason: str, message: str) -> None:
    (place.folder / "foreign").mkdir()
    (place.folder / "foreign" / "thesis.txt").write_text("years of work")

    ended = place.run(train(), "--output.uri", output, "--output.overwrite")

    assert (ended.code, ended.last_word["reason"], ended.last_word["message"]) == (64, reason, message)
    assert (place.folder / "foreign" / "thesis.txt").read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_found_before_the_work(place: Place) -> None:
    """/proc takes no folders, whoever asks: root may write everywhere else."""
    ended = place.run("raise AssertionError('it ran')", "--output.uri", "/proc/1/out", ALPACA_RUN_ID="run")

    assert (ended.code, ended.last_word["message"]) == (
        64,
        "spec.output.uri: /proc/1/out: cannot write /proc/1/.out.run.probe: No such file or directory: name another place",
    )


def test_a_place_that_cannot_be_replaced_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known as `docker run -v $PWD/out:/out`: the volume itself is the output. (Only root can mount one here.)"""

    def busy(target: Path, run_id: str) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))

    monkeypatch.setattr("workloads.system.atomic.put_aside_and_back", busy)
    out = tmp_path / "out"
    environment = Environment.read({"ALPACA_CACHE": str(tmp_path / "cache")})
    with pytest.raises(SpecError) as refused:
        LocalFolder(str(out), environment, lambda: None).prepare(lambda: None)
    assert str(refused.value) == (
        f"spec.output.uri: {out}: {out} cannot be replaced at once, as publishing does (Device or resource busy; is it a mount point?): name a "
        f"folder in it, such as {out}/result"
    )


def test_an_empty_folder_is_no_obstacle(place: Place) -> None:
    place.output.mkdir()

    assert place.run(train()).code == 0


def test_an_output_behind_a_link_is_replaced_where_it_lies(place: Place) -> None:
    (place.folder / "disk" / "poet").mkdir(parents=True)
    place.output.symlink_to("disk/poet")

    assert place.run(train()).code == 0
    assert place.run(train(), "--training.seed", "1", "--output.overwrite").code == 0
    assert place.output.is_symlink()
    assert [path.name for path in (place.folder / "disk").iterdir()] == ["poet"]
    assert (place.output / "artifact.json").exists()


def test_a_link_to_nothing_in_a_data_set_is_named(place: Place) -> None:
    (place.folder / "rows").mkdir()
    (place.folder / "rows" / "a.jsonl").symlink_to("nowhere")

    ended = place.run(train(), "--dataset.train", "[{uri: rows}]")

    assert ended.code == 66
    assert ended.last_word["message"] == (
        f"spec.dataset.train[0].uri: rows: cannot read {place.folder}/rows/a.jsonl: No such file or directory: copy it there, or "
        "mend the link to it"
    )


# hf://

BASE = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"weights",
    "tokenizer.model": b"pieces",
    "pytorch_model.bin": b"pickled",
    "README.md": b"words",
    "original/consolidated.00.pth": b"pickled again",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    repositories = {
        "models/org/base": BASE,
        "models/org/twice": {**BASE, "consolidated.safetensors": b"the same weights by other names"},
        "models/org/old": {"config.json": b"{}", "pytorch_model.bin": b"pickled", "README.md": b"words"},
        "models/org/gated": BASE,
        "datasets/org/poems": {"data/train.jsonl": b'{"text": "a"}\n', "README.md": b"words"},
        "models/org/broken": BASE,
    }
    with Hub(repositories, gated=("models/org/gated",), broken=("models/org/broken",)) as running:
        yield running


def from_hub(place: Place, hub: Hub, *flags: str, **environ: str) -> Ended:
    return place.run(
        "for field, found in runtime.inputs.items(): runtime.progress.log(f'{field} {found.digest} {sorted(str(p.relative_to(found.path)) for p in found.path.rglob(\"*\"))}')",
        *flags,
        HF_ENDPOINT=hub.endpoint,
        **environ,
    )


def test_a_hub_model_is_downloaded_as_far_as_it_is_loaded(place: Place, hub: Hub) -> None:
    ended = from_hub(place, hub, "--model.uri", "hf://org/base@main")

    assert "['config.json', 'model.safetensors', 'tokenizer.model']" in ended.messages[0]
    assert [request for request in hub.requests if not request.startswith(("GET /api/models/org", "HEAD /org"))] == [
        request for request in hub.requests if request.startswith("GET /org/base/resolve/")
    ], "something else was asked of the hub"


def test_weights_by_the_names_of_their_makers_are_not_downloaded(place: Place, hub: Hub) -> None:
    """As Mistral publishes them: beside the same weights for everybody else, with which they cannot lie in one folder."""
    ended = from_hub(place, hub, "--model.uri", "hf://org/twice")

    assert "['config.json', 'model.safetensors', 'tokenizer.model']" in ended.messages[0]


def test_a_model_has_one_digest_wherever_it_comes_from(place: Place, hub: Hub) -> None:
    local = place.folder / "local"
    for name, content in BASE.items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(content)

    remote = from_hub(place, hub, "--model.uri", "hf://org/base")
    copied = from_hub(place, hub, "--model.uri", "local")

    assert remote.messages[0].split()[1] == copied.messages[0].split()[1]


def test_a_model_without_safetensors_comes_with_its_pickled_weights(place: Place, hub: Hub) -> None:
    ended = from_hub(place, hub, "--model.uri", "hf://org/old")

    assert "['config.json', 'pytorch_model.bin']" in ended.messages[0]


def test_a_hub_data_set_is_a_data_set_repository(place: Place, hub: Hub) -> None:
    uris = "[{uri: hf://org/poems/data}, {uri: 'hf://datasets/org/poems'}, {uri: hf://org/poems/data/train.jsonl}]"

    ended = from_hub(place, hub, "--dataset.train", uris)

    assert [message.partition("[")[2].partition(" sha256")[0] for message in ended.messages[1:]] == ["0]", "1]", "2]"]
    assert ended.messages[1].endswith("['train.jsonl']")
    assert ended.messages[2].endswith("['README.md', 'data', 'data/train.jsonl']")
    assert ended.messages[3].endswith("[]")  # a file


def test_what_was_downloaded_once_is_used_offline(place: Place, hub: Hub) -> None:
    online = from_hub(place, hub, "--model.uri", "hf://org/base@main")
    asked = len(hub.requests)

    offline = from_hub(place, hub, "--model.uri", "hf://org/base@main", HF_HUB_OFFLINE="1")

    assert offline.messages == online.messages
    assert len(hub.requests) == asked


def test_a_hub_cache_that_others_filled_is_read_as_it_lies(place: Place) -> None:
    """The layout of huggingface_hub's own cache, as `hf download` leaves it: refs, snapshots of links, blobs."""
    repository = place.folder / "hub" / "models--org--base"
    for name, content in (("config.json", b"{}"), ("model.safetensors", b"weights")):
        (repository / "blobs").mkdir(parents=True, exist_ok=True)
        (repository / "snapshots" / ("1" * 40)).mkdir(parents=True, exist_ok=True)
        (repository / "blobs" / name).write_bytes(content)
        (repository / "snapshots" / ("1" * 40) / name).symlink_to(f"../../blobs/{name}")
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text("1" * 40)

    ended = place.run(
        "runtime.progress.log(runtime.inputs['model'].path.name)",
        "--model.uri",
        "hf://org/base@v2",
        HF_HUB_OFFLINE="1",
        HF_HUB_CACHE=str(place.folder / "hub"),
    )

    assert ended.messages == ["1" * 40]


@pytest.mark.parametrize(
    ("uri", "environ", "code", "message"),
    [
        pytest.param(
            "hf://org/nowhere",
            {},
            66,
            "spec.model.uri: hf://org/nowhere: {hub} has no model org/nowhere, or it is private: check the name, and the token in HF_TOKEN, which is not "
            "set (in a pod: secretRef)",
            id="no such repository",
        ),
        pytest.param(
            "hf://org/nowhere",
            {"HF_TOKEN": TOKEN},
            66,
            "spec.model.uri: hf://org/nowhere: {hub} has no model org/nowhere, or it is private: check the name, and the token in HF_TOKEN, which is set",
            id="no such repository, with a token",
        ),
        pytest.param(
            "hf://org/gated",
            {},
            66,
            "spec.model.uri: hf://org/gated: org/gated is gated: accept its terms at {hub}/org/gated, and give a token of that account in HF_TOKEN, which is "
            "not set (in a pod: secretRef)",
            id="a gate",
        ),
        pytest.param(
            "hf://org/base@v9",
            {},
            66,
            "spec.model.uri: hf://org/base@v9: org/base has no revision 'v9'",
            id="no such revision",
        ),
        pytest.param(
            "hf://org/base@main",
            {"HF_HUB_OFFLINE": "1"},
            66,
            "spec.model.uri: hf://org/base@main: org/base at revision main is not whole in the cache {here}/cache/huggingface, and HF_HUB_OFFLINE forbids to "
            "download it: unset it, or fill the cache",
            id="offline and not in the cache",
        ),
    ],
)
def test_what_the_hub_refuses_is_told_with_the_remedy(
    place: Place, hub: Hub, uri: str, environ: dict[str, str], code: int, message: str
) -> None:
    ended = from_hub(place, hub, "--model.uri", uri, **environ)

    assert (ended.code, ended.last_word["message"]) == (code, message.format(hub=hub.endpoint, here=place.folder))


@pytest.mark.parametrize("uri", ["hf://org/broken", "hf://org/base"])
def test_a_hub_that_does_not_answer_is_tried_again(place: Place, hub: Hub, uri: str) -> None:
    endpoint = hub.endpoint if uri == "hf://org/broken" else "http://127.0.0.1:9"

    ended = place.run("pass", "--model.uri", uri, HF_ENDPOINT=endpoint)

    assert ended.code == 70
    assert ended.last_word["message"].startswith(f"spec.model.uri: {uri}: {endpoint} ")


# s3://


def test_an_s3_model_and_file_are_brought_into_the_cache_once_per_etag(place: Place, store: Store) -> None:
    for name, content in BASE.items():
        store.put(f"shelf/base/{name}", content)
    store.put("shelf/rows/a.jsonl", b'{"text": "a"}\n')
    flags = ["--model.uri", "s3://shelf/base", "--dataset.train", "[{uri: s3://shelf/rows/a.jsonl}]"]
    body = """
for found in runtime.inputs.values():
    names = sorted(str(path.relative_to(found.path)) for path in found.path.rglob("*")) or [found.path.name, found.path.read_text()]
    runtime.progress.log(f"{found.digest} {names}")
"""

    first = place.run(body, *flags, **store.environ)
    kept = {path: path.stat().st_mtime_ns for path in (place.folder / "cache" / "s3" / "objects").iterdir()}
    second = place.run(body, *flags, **store.environ)
    store.put("shelf/rows/a.jsonl", b'{"text": "b"}\n')
    third = place.run(body, *flags, **store.environ)

    now_kept = {path: path.stat().st_mtime_ns for path in (place.folder / "cache" / "s3" / "objects").iterdir()}
    assert first.messages[0].endswith("['config.json', 'model.safetensors', 'tokenizer.model']")
    assert first.messages[1].endswith("""['a.jsonl', '{"text": "a"}\\n']""")
    assert second.messages == first.messages
    assert third.messages[0] == first.messages[0]
    assert third.messages[1].endswith("""['a.jsonl', '{"text": "b"}\\n']""")
    assert len(kept) == 4
    assert kept.items() < now_kept.items()
    assert len(now_kept) == 5


def test_an_s3_output_is_published_reused_refused_and_replaced(place: Place, store: Store) -> None:
    flags = ["--output.uri", "s3://shelf/poet"]
    first = place.run(train(), *flags, **store.environ)

    assert first.code == 0, first.err
    assert store.names("shelf") == ["poet/adapter.safetensors", "poet/artifact.json"]
    assert store.get("shelf/poet/adapter.safetensors") == b"trained from 0 to 4"
    assert json.loads(store.get("shelf/poet/artifact.json"))["digest"] == first.last_word["output"]["digest"]

    assert place.run("raise AssertionError('it ran')", *flags, **store.environ).last_word["reason"] == "Reused"
    other = [*flags, "--training.learningRate", "2e-4"]
    assert place.run(train(), *other, **store.environ).last_word["reason"] == "OutputExists"

    store.put("shelf/poet/stale.bin", b"of the first")
    assert place.run(train(), *other, "--output.overwrite", **store.environ).code == 0
    assert store.names("shelf") == ["poet/adapter.safetensors", "poet/artifact.json"]

    store.put("shelf/poet/adapter.safetensors", b"cut")
    mended = place.run(train(), *other, **store.environ)
    assert (
        "the artifact at s3://shelf/poet is damaged (adapter.safetensors has 3 bytes instead of 19): it is made again"
        in mended.messages
    )
    assert store.get("shelf/poet/adapter.safetensors") == b"trained from 0 to 4"


def test_an_upload_that_was_cut_short_is_done_again(place: Place, store: Store) -> None:
    flags = ["--output.uri", "s3://shelf/poet"]
    store.put("shelf/poet/adapter.safetensors", b"trained fr")
    store.put("shelf/poet.checkpoints/upload", b"an upload is under way, or was cut short")

    assert place.run(train(), *flags, **store.environ).code == 0
    assert store.names("shelf") == ["poet/adapter.safetensors", "poet/artifact.json"]
    assert store.get("shelf/poet/adapter.safetensors") == b"trained from 0 to 4"


REJECTED = """
report = runtime.checkpoints.own / "rejected"
report.mkdir(parents=True)
(report / f"report-{job.spec.training.seed}.md").write_text("too much was lost")
raise AssertionError(runtime.reject(report))
"""


def test_the_report_on_a_rejected_result_lies_beside_an_s3_output_until_something_is_published(
    place: Place, store: Store
) -> None:
    flags = ["--output.uri", "s3://shelf/poet"]
    first = place.run(REJECTED, *flags, "--training.seed", "1", **store.environ)
    assert "AssertionError: s3://shelf/poet.rejected" in first.err
    place.run(REJECTED, *flags, "--training.seed", "2", **store.environ)
    assert store.names("shelf/poet.rejected") == ["report-2.md"], "the report of the run before is another's"
    assert store.names("shelf/poet") == []

    assert place.run(train(), *flags, **store.environ).code == 0
    assert store.names("shelf") == ["poet/adapter.safetensors", "poet/artifact.json"]


def test_the_report_on_a_rejected_result_lies_beside_a_local_output_until_something_is_published(place: Place) -> None:
    for seed in ("1", "2"):
        ended = place.run(REJECTED, "--output.uri", "poet", "--training.seed", seed)
        assert "AssertionError: poet.rejected" in ended.err
    assert [path.name for path in (place.folder / "poet.rejected").iterdir()] == ["report-2.md"]

    assert place.run(train(), "--output.uri", "poet").code == 0
    assert not (place.folder / "poet.rejected").exists()


def test_files_of_somebody_else_s_on_s3_are_left_alone(place: Place, store: Store) -> None:
    store.put("shelf/poet/thesis.txt", b"years of work")

    ended = place.run(train(), "--output.uri", "s3://shelf/poet", "--output.overwrite", **store.environ)

    assert (ended.code, ended.last_word["reason"]) == (64, "OutputExists")
    assert store.names("shelf/poet") == ["thesis.txt"]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""], ids=["broken off", "no text", "empty"])
def test_an_artifact_json_on_s3_that_cannot_be_read_is_left_alone(place: Place, store: Store, content: bytes) -> None:
    store.put("shelf/poet/artifact.json", content)

    ended = place.run(train(), "--output.uri", "s3://shelf/poet", "--output.overwrite", **store.environ)

    assert (ended.code, ended.last_word["message"]) == (
        64,
        "spec.output.uri: the artifact.json in s3://shelf/poet cannot be read, so nobody knows whose these files are: copy the folder again, name "
        "another one, or remove it",
    )
    assert store.names("shelf/poet") == ["artifact.json"]


def test_a_run_that_another_overtook_uploads_nothing(place: Place, store: Store) -> None:
    body = """
runtime.progress.log("training")
while not pathlib.Path("trained").exists(): time.sleep(0.01)
with runtime.output("Model", {}) as folder:
    (folder / "weights").write_text("late")
"""
    lost = place.start(body, "--output.uri", "s3://shelf/poet", ALPACA_RUN_ID="lost", **store.environ)
    lost.until(lambda said: "training" in said)
    newest = {"runId": "newer", "job": "SFTJob poet", "startedAt": "2026-01-01T00:00:00Z"}
    store.put("shelf/poet.checkpoints/run-id", json.dumps(newest).encode())
    (place.folder / "trained").touch()
    ended = lost.end()

    assert ended.code == 75, ended.err
    assert ended.last_word["message"] == (
        "another run took over at 2026-01-01T00:00:00Z (run newer of SFTJob poet): this one ends without publishing"
    )
    assert store.names("shelf/poet") == []


def test_an_s3_job_that_was_stopped_goes_on_from_the_cache(place: Place, store: Store) -> None:
    flags = ["--output.uri", "s3://shelf/poet", "--training.maxSteps", "100"]
    first = place.start(train(STEP_SECONDS), *flags, **store.environ)
    first.until_step(3)
    first.send(signal.SIGTERM)
    stopped = first.end()

    ended = place.run(train(), *flags, **store.environ)

    assert stopped.code == 75
    assert [line["step"] for line in ended.lines if "loss" in line] == list(range(stopped.last_word["step"] + 1, 101))
    assert store.names("shelf") == ["poet/adapter.safetensors", "poet/artifact.json"]
    assert not list((place.folder / "cache" / "checkpoints").iterdir())


def test_a_pod_without_a_cache_volume_is_told_that_its_checkpoints_end_with_it(place: Place, store: Store) -> None:
    environ = {**store.environ, "ALPACA_IN_POD": "1", "ALPACA_CACHE": "", "ALPACA_PROGRESS_PORT": "0"}

    ended = place.run(train(), "--output.uri", "s3://shelf/poet", HOME=str(place.folder), **environ)

    assert ended.code == 0
    assert ended.messages[0] == (
        "checkpoints of an s3:// output end with this pod: set cache.claimName, and a restart goes on from them"
    )


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        pytest.param(
            "s3://shelf/bass",
            "spec.model.uri: s3://shelf/bass: nothing lies at bass; beside it are base; did you mean base?",
            id="a key nearly right",
        ),
        pytest.param(
            "s3://nowhere/base",
            "spec.model.uri: s3://nowhere/base: nothing lies at base, and bucket nowhere has nothing beside it",
            id="no such bucket",
        ),
        pytest.param(
            "s3://shelf/base/original",
            "spec.model.uri: s3://shelf/base/original: below base/original are objects, but none that a model is loaded from",
            id="no model",
        ),
    ],
)
def test_what_is_not_on_s3_is_told_with_what_lies_there(place: Place, store: Store, uri: str, message: str) -> None:
    for name, content in BASE.items():
        store.put(f"shelf/base/{name}", content)

    ended = place.run("pass", "--model.uri", uri, **store.environ)

    assert (ended.code, ended.last_word["message"]) == (66, message)


def test_an_s3_server_that_does_not_answer_is_tried_again(place: Place, store: Store) -> None:
    environ: dict[str, Any] = {**store.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}

    ended = place.run("pass", "--model.uri", "s3://shelf/base", **environ)

    assert ended.code == 70
    assert ended.last_word["message"].startswith("spec.model.uri: s3://shelf/base: http://127.0.0.1:9: ")


class TestWhatOtherJobsPublished:
    FOUND = sources.Inputs({"model": sources.Input("pvc://models/base", Path("base"), "sha256:now")})

    def pinned(self, digest: str | None) -> dict[str, ResolvedInput]:
        return {"model": ResolvedInput(uri="pvc://models/base", digest=digest, producer_uid="uid-base")}

    def test_what_was_there_at_the_start_is_there(self):
        sources.must_be_as_published(self.FOUND, self.pinned("sha256:now"))
        sources.must_be_as_published(self.FOUND, self.pinned(None))
        sources.must_be_as_published(self.FOUND, {})

    def test_another_output_in_its_place_is_refused(self):
        with pytest.raises(InputError) as caught:
            sources.must_be_as_published(self.FOUND, self.pinned("sha256:then"))
        assert str(caught.value) == (
            "spec.model: pvc://models/base was sha256:then when this job started, and is sha256:now now: what lies there was replaced or "
            "damaged; a job of another name takes it as it is"
        )
