"""A push to the hub: one commit, last; broken off anywhere, nothing there looks whole, and the next try ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from alpaca_operator.api.contract import PushedTo
from alpaca_operator.api.sources import AdapterSource
from tests.workloads.hub_server import COMMIT, TOKEN, Hub
from tests.workloads.publication.made import BASE, CARD, FILES, job, make
from tests.workloads.publication.pushing import Death, Killed, must_be_whole, pushed, pushed_to_all
from workloads.errors import InputError
from workloads.publication.place import PlaceUnreachable, PushRefused
from workloads.storage import sources
from workloads.storage.contents import content_digest
from workloads.storage.hashing import HashCache
from workloads.system.environment import Environment

# huggingface_hub hands a file to its client in a way that this one calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "models/poets/poet"
PLACE = "hf://poets/poet"
LLAMA = "models/meta-llama/Llama-2-7b-hf"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """With a base whose card names its licence."""
    with Hub({LLAMA: {}}, cards={LLAMA: {"license": "llama2"}}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield served


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make(tmp_path / "poet")
    return tmp_path / "poet"


def test_a_model_is_pushed_as_one_commit_to_a_repository_that_is_made_private(hub: Hub, made: Path) -> None:
    done = pushed(made, PLACE)

    assert hub.pushes == ["LoRAAdapter by SFTJob poet"]
    assert hub.private == {NAME: True}
    files = hub.repositories[NAME]
    must_be_whole(files)
    assert {path: files[path] for path in FILES if path != "README.md"} == {
        path: content for path, content in FILES.items() if path != "README.md"
    }
    assert done == PushedTo(
        uri="hf://poets/poet", revision=hub.commits[NAME], digest=json.loads(files["artifact.json"])["digest"]
    )


def test_the_card_has_figures_lineage_and_the_licence_of_the_base(hub: Hub, made: Path) -> None:
    pushed(made, PLACE)

    card = hub.repositories[NAME]["README.md"].decode()
    header = card.split("---\n")[1].splitlines()
    assert header == [
        'library_name: "peft"',
        'tags: ["literary-alpaca", "sft"]',
        'base_model: "meta-llama/Llama-2-7b-hf"',
        'base_model_relation: "adapter"',
        'license: "llama2"',
    ]
    assert "| evalLoss | 1.25 |" in card
    assert f"The base `{BASE}` is under `llama2`, which binds this model too." in card
    assert 'PeftModel.from_pretrained(base, "poets/poet")' in card
    assert "| SFTJob poet | dataset.train[0] | pvc://data/poems.jsonl | sha256:" + "d" * 64 + " |" in card


def test_a_licence_that_is_not_to_be_read_is_said_to_be_unknown(hub: Hub, made: Path) -> None:
    hub.cards.clear()

    pushed(made, PLACE)

    card = hub.repositories[NAME]["README.md"].decode()
    assert "license" not in card.split("---\n")[1]
    assert f"The licence of the base `{BASE}` is not known here: it binds this model too, see there." in card


def test_what_is_there_already_is_not_sent_again(hub: Hub, made: Path) -> None:
    first = pushed(made, PLACE)
    hub.requests.clear()

    assert pushed(made, PLACE) == first
    assert hub.pushes == ["LoRAAdapter by SFTJob poet"]
    assert [request for request in hub.requests if not request.startswith("GET ")] == []


def test_a_next_revision_leaves_nothing_of_the_one_before(hub: Hub, made: Path, tmp_path: Path) -> None:
    hub.repositories[NAME] = {"LICENSE": b"theirs"}
    pushed(made, PLACE)
    newer = tmp_path / "newer" / "poet"
    make(newer, {"model.safetensors": b"merged", "config.json": b"{}", "README.md": CARD.encode()}, kind="Model")

    pushed(newer, PLACE)

    assert set(hub.repositories[NAME]) == {"LICENSE", "README.md", "artifact.json", "config.json", "model.safetensors"}
    assert hub.pushes == ["LoRAAdapter by SFTJob poet", "Model by SFTJob poet"]


# ---- broken off ----


@pytest.fixture
def death() -> Iterator[Death]:
    """Of huggingface_hub, whose client lasts longer than a test."""
    coming = Death()

    def client() -> httpx2.Client:
        made = default_client_factory()
        hooks = made.event_hooks
        made.event_hooks = {
            "request": [*hooks["request"], lambda _: coming.passes("sent")],
            "response": [*hooks["response"], lambda _: coming.passes("answered")],
        }
        return made

    set_client_factory(client)
    yield coming
    set_client_factory(default_client_factory)


@pytest.mark.parametrize("side", ["sent", "answered"])
def test_a_push_killed_at_any_request_leaves_nothing_that_looks_whole_and_the_next_ends_it(
    side: str, death: Death, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    left_behind = []
    was_killed = True
    while was_killed:
        with Hub({LLAMA: {}}, cards={LLAMA: {"license": "llama2"}}) as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
            death.at(len(left_behind) + 1, side)
            try:
                pushed(made, PLACE)
                was_killed = False
            except Killed:
                left_behind.append(set(hub.repositories.get(NAME, {})))
            death.never()

            pushed(made, PLACE)

            must_be_whole(hub.repositories[NAME])
            assert hub.pushes == ["LoRAAdapter by SFTJob poet"]
    whole = [files for files in left_behind if "artifact.json" in files]
    assert [files for files in left_behind if files not in (set(), {".gitattributes"})] == whole
    assert len(whole) == (side == "answered"), "the commit is the last request"
    assert len(left_behind) >= 9, (
        "the licence, the branch twice, the repository, the card, how files go, two large ones, the commit"
    )


def test_a_process_that_is_killed_while_it_sends_is_followed_by_one_that_ends_it(
    hub: Hub, made: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "job.json"
    asked = job(made, "hf://poets/poet").model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude_defaults=True
    )
    manifest.write_text(json.dumps({"apiVersion": "literary-alpaca.io/v1alpha1", "kind": "SFTJob", **asked}))
    environ = {**os.environ, "HF_HUB_DISABLE_XET": "1", "ALPACA_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "workloads.publish", str(manifest)]
    with hub.hold("PUT") as held:
        process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
        assert held.wait(60), "no large file was sent"
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert set(hub.repositories[NAME]) == {".gitattributes"}

    again = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)

    assert again.returncode == 0, again.stderr
    must_be_whole(hub.repositories[NAME])
    assert hub.pushes == ["LoRAAdapter by SFTJob poet"]


# ---- refused ----


@pytest.mark.parametrize(
    ("there", "message"),
    [
        pytest.param(
            {"model.safetensors": b"theirs"},
            "spec.publish[0].uri: hf://poets/poet: it has weights (model.safetensors) and no artifact.json, so they are not ours to replace: name "
            "another repository or branch, or remove them",
            id="weights of somebody else",
        ),
        pytest.param(
            {"artifact.json": b"{"},
            "spec.publish[0].uri: hf://poets/poet: the artifact.json there cannot be read, so nobody knows whose these files are: name another "
            "repository, or empty it",
            id="an artifact that cannot be read",
        ),
        pytest.param(
            {".gitignore": b"tokenizer.json"},
            "spec.publish[0].uri: hf://poets/poet: its .gitignore makes the hub leave files out without a word: remove it, or name another repository",
            id="files that the hub would leave out",
        ),
    ],
)
def test_what_lies_there_is_not_touched(there: dict[str, bytes], message: str, hub: Hub, made: Path) -> None:
    hub.repositories[NAME] = dict(there)

    with pytest.raises(PushRefused) as refused:
        pushed(made, PLACE)

    assert str(refused.value) == message
    assert hub.repositories[NAME] == there
    assert hub.commit(NAME) == COMMIT


def test_a_token_that_may_not_write_is_named(hub: Hub, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")

    with pytest.raises(PushRefused) as refused:
        pushed(made, PLACE)

    assert str(refused.value).startswith(
        f"spec.publish[0].uri: hf://poets/poet: {hub.endpoint} does not let the token write there (401: "
    )
    assert str(refused.value).endswith("give one with write access to poets/poet in HF_TOKEN, which is set")


def test_each_place_has_a_token_of_its_own_in_a_pod(hub: Hub, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    monkeypatch.setenv("ALPACA_PLACE_1_HF_TOKEN", TOKEN)

    with pytest.raises(PushRefused) as refused:
        pushed_to_all(made, "hf://others/poet", "hf://poets/poet")

    assert "spec.publish[0].uri: hf://others/poet" in str(refused.value)
    assert "spec.publish[1]" not in str(refused.value)
    assert str(refused.value).endswith("(pushed: hf://poets/poet)")
    assert [one.uri for one in refused.value.publications] == ["hf://poets/poet"]
    must_be_whole(hub.repositories[NAME])


def test_a_hub_that_is_not_there_is_worth_another_try(hub: Hub, made: Path) -> None:
    hub.broken = (NAME,)

    with pytest.raises(PlaceUnreachable) as broken:
        pushed(made, PLACE)

    assert str(broken.value).startswith(f"spec.publish[0].uri: hf://poets/poet: {hub.endpoint} answers 500: ")


def test_nothing_is_pushed_of_an_output_that_is_damaged(hub: Hub, made: Path) -> None:
    (made / "adapter_model.safetensors").write_bytes(b"weights of the b\xfcet")

    with pytest.raises(InputError) as damaged:
        pushed(made, PLACE)

    assert str(damaged.value).startswith(
        f"spec.output.uri: {made}: what lies there is damaged (the content of adapter_model.safetensors has changed)"
    )
    assert NAME not in hub.repositories


# ---- read again ----


def test_what_was_pushed_is_an_input_with_the_digest_of_the_output(
    hub: Hub, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = pushed(made, PLACE)
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)  # it was read from the environment when that was imported
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    environment = Environment.read({"ALPACA_CACHE": str(tmp_path / "reader"), "ALPACA_RUN_ID": "r"})
    adapter = AdapterSource(uri="hf://poets/poet")
    where = "spec.adapter.uri: hf://poets/poet"

    found = sources.locate(adapter, "adapter", environment, lambda: None)

    assert content_digest(found, adapter, where, HashCache(tmp_path / "read.json"), None) == done.digest
