"""Models and data sets of ModelScope: at one commit, by their digests, and from where a download was broken off."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alpaca_operator.api.conversations import DataSource
from alpaca_operator.api.sources import ModelSource, Source, TokenizerSource
from tests.workloads.modelscope_server import TOKEN, Repository, Site
from workloads.errors import InputError, SpecError, WorkloadError
from workloads.storage import sources
from workloads.storage.contents import content_digest
from workloads.storage.hashing import HashCache
from workloads.storage.hub import HubUnreachable
from workloads.system.environment import Environment

WEIGHTS = bytes(range(256)) * 1000
BASE = {
    "config.json": b"{}",
    "configuration.json": b'{"task": "text-generation"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.model": b"pieces",
    "consolidated.safetensors": b"the same weights by other names",
    "README.md": b"words",
    "original/params.txt": b"dim",
}
ROWS = {f"rows/{number:03}.jsonl": b'{"text": "a"}\n' for number in range(250)}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    repositories = {
        "models/org/base": Repository.of(BASE),
        "models/org/secret": Repository.of(BASE, private=True),
        "models/org/old": Repository.of({"config.json": b"{}", "pytorch_model.bin": b"pickled", "README.md": b"words"}),
        "models/org/climbs": Repository.of({"../config.json": b"{}"}),
        "datasets/org/poems": Repository.of({**ROWS, "README.md": b"words"}),
    }
    with Site(repositories) as served:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", served.endpoint)
        monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
        yield served


def locate(source: Source, folder: Path, heartbeat: object = None) -> Path:
    environment = Environment.read({"ALPACA_CACHE": str(folder / "cache"), "ALPACA_RUN_ID": "r"})
    return sources.locate(source, "model", environment, lambda: None)


def names(found: Path) -> list[str]:
    return sorted(str(path.relative_to(found)) for path in found.rglob("*") if path.is_file())


def test_a_model_is_downloaded_as_far_as_it_is_loaded(site: Site, tmp_path: Path) -> None:
    found = locate(ModelSource(uri="ms://org/base"), tmp_path)

    assert names(found) == [
        "config.json",
        "configuration.json",
        "model.safetensors",
        "original/params.txt",
        "tokenizer.model",
    ]
    assert (found / "model.safetensors").read_bytes() == WEIGHTS
    assert names(locate(ModelSource(uri="ms://org/old"), tmp_path)) == ["config.json", "pytorch_model.bin"]


def test_a_model_has_one_digest_wherever_it_comes_from(site: Site, tmp_path: Path) -> None:
    for name, content in BASE.items():
        if name != "consolidated.safetensors":
            (tmp_path / "local" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "local" / name).write_bytes(content)
    digests = []
    for uri in ("ms://org/base", str(tmp_path / "local")):
        source = ModelSource(uri=uri)
        found = locate(source, tmp_path)
        digests.append(content_digest(found, source, uri, HashCache(tmp_path / "digests.json"), None))

    assert digests[0] == digests[1]


def test_a_data_set_is_a_data_set_repository_however_many_files_it_has(site: Site, tmp_path: Path) -> None:
    assert len(names(locate(DataSource(uri="ms://org/poems"), tmp_path))) == 251
    assert len(names(locate(DataSource(uri="ms://datasets/org/poems/rows"), tmp_path))) == 250
    assert locate(DataSource(uri="ms://org/poems/rows/007.jsonl"), tmp_path).read_bytes() == b'{"text": "a"}\n'
    assert names(locate(TokenizerSource(uri="ms://org/base"), tmp_path / "alone")) == ["tokenizer.model"]


def test_every_file_is_of_the_commit_that_the_branch_was(site: Site, tmp_path: Path) -> None:
    repository = site.repositories["models/org/base"]
    before = repository.branches["master"]
    newer = repository.commit("master", {**BASE, "config.json": b'{"newer": true}'}, before)

    found = locate(ModelSource(uri="ms://org/base"), tmp_path)
    older = locate(ModelSource(uri=f"ms://org/base@{before}"), tmp_path)

    assert (found.name, (found / "config.json").read_bytes()) == (newer, b'{"newer": true}')
    assert (older.name, (older / "config.json").read_bytes()) == (before, b"{}")
    fetched = [request for request in site.requests if "FilePath" in request]
    assert all(f"Revision={newer}" in request or f"Revision={before}" in request for request in fetched)
    assert len(fetched) == len(names(found)) + 1, "a file that has not changed is not fetched again"


def test_what_another_host_keeps_is_fetched_without_the_token(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", TOKEN)
    site.large[hashlib.sha256(WEIGHTS).hexdigest()] = WEIGHTS

    found = locate(ModelSource(uri="ms://org/secret"), tmp_path)

    assert (found / "model.safetensors").read_bytes() == WEIGHTS
    assert any(request.startswith("GET /large/") for request in site.requests)


def test_a_download_that_breaks_off_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    site.cut["model.safetensors"] = 100_000

    found = locate(ModelSource(uri="ms://org/base"), tmp_path)

    assert (found / "model.safetensors").read_bytes() == WEIGHTS
    assert len([request for request in site.requests if "FilePath=model.safetensors" in request]) == 2


def test_the_next_run_goes_on_with_what_one_that_was_killed_has_left(site: Site, tmp_path: Path) -> None:
    blobs = tmp_path / "cache" / "modelscope" / "blobs"
    blobs.mkdir(parents=True)
    partial = blobs / f"{hashlib.sha256(WEIGHTS).hexdigest()}.partial"
    partial.write_bytes(WEIGHTS[:255_000])
    site.cut["model.safetensors"] = 900  # would not be enough from the beginning
    site.cut.setdefault("config.json", 0)

    with pytest.raises(HubUnreachable) as broken:
        locate(ModelSource(uri="ms://org/base"), tmp_path)
    found = locate(ModelSource(uri="ms://org/base"), tmp_path)

    assert str(broken.value).startswith(f"spec.model.uri: ms://org/base: {site.endpoint}: it broke off: ")
    assert (found / "model.safetensors").read_bytes() == WEIGHTS
    assert not list(blobs.glob("*.partial"))


def test_a_file_that_another_run_is_fetching_is_waited_for(site: Site, tmp_path: Path) -> None:
    blobs = tmp_path / "cache" / "modelscope" / "blobs"
    blobs.mkdir(parents=True)
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    other = (
        "import fcntl, pathlib, sys, time\n"
        "partial = pathlib.Path(sys.argv[1])\n"
        "with partial.open('ab') as copy:\n"
        "    fcntl.flock(copy, fcntl.LOCK_EX)\n"
        "    print('has it', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    copy.write(bytes(range(256)) * 1000)\n"
        "    copy.flush()\n"
        "    partial.rename(sys.argv[2])\n"
    )
    command = [sys.executable, "-c", other, str(blobs / f"{digest}.partial"), str(blobs / digest)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "has it\n"
        environment = Environment.read({"ALPACA_CACHE": str(tmp_path / "cache"), "ALPACA_RUN_ID": "r"})
        waited = []

        def heartbeat() -> None:
            waiting_for_it = not any("FilePath=tokenizer.model" in request for request in site.requests)
            if waiting_for_it and any("configuration.json" in request for request in site.requests) and not waited:
                waited.append(True)
                process.stdin.write("go on\n")
                process.stdin.flush()

        found = sources.locate(ModelSource(uri="ms://org/base"), "model", environment, heartbeat)

    assert (found / "model.safetensors").read_bytes() == WEIGHTS
    assert waited
    assert not [request for request in site.requests if "FilePath=model.safetensors" in request]


def test_what_is_not_as_announced_is_thrown_away_and_tried_again(site: Site, tmp_path: Path) -> None:
    site.garbled.add("tokenizer.model")
    with pytest.raises(HubUnreachable) as garbled:
        locate(ModelSource(uri="ms://org/base"), tmp_path)
    site.garbled.clear()

    found = locate(ModelSource(uri="ms://org/base"), tmp_path)

    assert (
        str(garbled.value)
        == f"spec.model.uri: ms://org/base: {site.endpoint}: tokenizer.model is not what was announced"
    )
    assert (found / "tokenizer.model").read_bytes() == b"pieces"


@pytest.mark.parametrize(
    ("uri", "token", "error", "message"),
    [
        pytest.param(
            "ms://org/nowhere",
            None,
            InputError,
            "{site} has no model org/nowhere, or it is private: check the name, and the token in MODELSCOPE_API_TOKEN, which is not set (in a pod: "
            "secretRef)",
            id="no such repository",
        ),
        pytest.param(
            "ms://org/secret",
            "ms-wrong",
            InputError,
            "{site} has no model org/secret, or it is private: check the name, and the token in MODELSCOPE_API_TOKEN, which is set",
            id="somebody else's",
        ),
        pytest.param(
            "ms://org/base@v9",
            None,
            InputError,
            "org/base has no revision 'v9', or nothing in it: check the name",
            id="no such revision",
        ),
        pytest.param(
            "ms://org/base/lost",
            None,
            InputError,
            "org/base has no lost: it has README.md, config.json, configuration.json, consolidated.safetensors, model.safetensors, "
            "original/params.txt, tokenizer.model",
            id="no such folder",
        ),
        pytest.param(
            "ms://org/climbs",
            None,
            InputError,
            "its file '../config.json' leads out of the folder: it cannot be read from here",
            id="a file that leads out",
        ),
        pytest.param(
            "ms://base",
            None,
            SpecError,
            "write ms://org/name, ms://org/name@revision or ms://org/name@revision/path",
            id="no organisation",
        ),
    ],
)
def test_what_cannot_be_read_is_told_with_the_remedy(
    uri: str,
    token: str | None,
    error: type[WorkloadError],
    message: str,
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if token:
        monkeypatch.setenv("MODELSCOPE_API_TOKEN", token)

    with pytest.raises(error) as refused:
        locate(ModelSource(uri=uri), tmp_path)

    assert str(refused.value) == f"spec.model.uri: {uri}: {message.format(site=site.endpoint)}"


def test_a_site_that_does_not_answer_is_worth_another_try(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.broken = True
    with pytest.raises(HubUnreachable) as broken:
        locate(ModelSource(uri="ms://org/base"), tmp_path)
    assert str(broken.value) == f"spec.model.uri: ms://org/base: {site.endpoint}: it answers 502"

    monkeypatch.delenv("MODELSCOPE_ENDPOINT")
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "http://127.0.0.1:9/")
    with pytest.raises(HubUnreachable) as nowhere:
        locate(ModelSource(uri="ms://org/base"), tmp_path)
    assert str(nowhere.value).startswith("spec.model.uri: ms://org/base: http://127.0.0.1:9: it broke off: ")
