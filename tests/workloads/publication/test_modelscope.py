"""A push to ModelScope: one commit, last; broken off anywhere, nothing there looks whole, and the next try ends it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from alpaca_operator.api.contract import PushedTo
from alpaca_operator.api.sources import AdapterSource
from tests.workloads.modelscope_server import TOKEN, Repository, Site
from tests.workloads.publication.made import CARD, FILES, make, sha256
from tests.workloads.publication.pushing import Death, Killed, must_be_whole, pushed
from workloads.errors import SpecError
from workloads.publication.place import PlaceUnreachable, PushRefused
from workloads.storage import sources
from workloads.storage.contents import content_digest
from workloads.storage.hashing import HashCache
from workloads.system.environment import Environment

NAME = "models/poets/poet"
BASE = "ms://modelscope/Llama-2-7b-ms"
MADE_OF = {"model": {"uri": BASE, "digest": "sha256:" + "b" * 64}}
PLACE = "ms://poets/poet"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """With a base whose card names its licence."""
    card = {"README.md": b"---\nlicense: llama2\n---\n# Llama 2\n", "config.json": b"{}"}
    with Site({"models/modelscope/Llama-2-7b-ms": Repository.of(card)}) as served:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", served.endpoint)
        monkeypatch.setenv("MODELSCOPE_API_TOKEN", TOKEN)
        yield served


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make(tmp_path / "poet", inputs=MADE_OF)
    return tmp_path / "poet"


def test_a_model_is_pushed_as_one_commit_to_a_repository_that_is_made_private(site: Site, made: Path) -> None:
    done = pushed(made, PLACE)

    assert site.pushes == ["LoRAAdapter by SFTJob poet"]
    assert site.repositories[NAME].private
    files = site.files(NAME)
    must_be_whole(files)
    assert {path: files[path] for path in FILES if path != "README.md"} == {
        path: content for path, content in FILES.items() if path != "README.md"
    }
    digest = json.loads(files["artifact.json"])["digest"]
    assert done == PushedTo(uri=PLACE, revision=site.repositories[NAME].branches["master"], digest=digest)
    assert sha256(FILES["adapter_model.safetensors"]) in site.large


def test_a_repository_that_may_be_seen_is_made_so(site: Site, made: Path) -> None:
    pushed(made, PLACE, private=False)

    assert not site.repositories[NAME].private


def test_the_card_names_the_base_and_its_licence_and_loads_from_a_folder(site: Site, made: Path) -> None:
    pushed(made, PLACE)

    card = site.files(NAME)["README.md"].decode()
    assert card.split("---\n")[1].splitlines()[2:] == [
        'base_model: "modelscope/Llama-2-7b-ms"',
        'base_model_relation: "adapter"',
        'license: "llama2"',
    ]
    assert f"The base `{BASE}` is under `llama2`, which binds this model too." in card
    assert 'PeftModel.from_pretrained(base, "path/of/this/folder")' in card


def test_what_is_there_already_is_not_sent_again(site: Site, made: Path) -> None:
    first = pushed(made, PLACE)
    site.requests.clear()

    assert pushed(made, PLACE) == first
    assert [request for request in site.requests if not request.startswith("GET ")] == []


def test_a_next_revision_leaves_nothing_of_the_one_before(site: Site, made: Path, tmp_path: Path) -> None:
    site.repositories[NAME] = Repository.of({"LICENSE": b"theirs"})
    pushed(made, PLACE)
    newer = tmp_path / "newer" / "poet"
    files = {
        "model.safetensors": b"merged",
        "config.json": b"{}",
        "README.md": CARD.encode(),
        "big.json": b" " * 70_000,
    }
    make(newer, files, kind="Model", inputs=MADE_OF)

    pushed(newer, PLACE)

    assert set(site.files(NAME)) == {"LICENSE", "README.md", "artifact.json", *files}
    assert site.files(NAME)["big.json"] == files["big.json"]
    assert site.pushes == ["LoRAAdapter by SFTJob poet", "Model by SFTJob poet"]


# ---- broken off ----


@pytest.mark.parametrize("side", ["sent", "answered"])
def test_a_push_killed_at_any_request_leaves_nothing_that_looks_whole_and_the_next_ends_it(
    side: str, death: Death, site: Site, made: Path
) -> None:
    kills = whole = 0
    was_killed = True
    while was_killed:
        name = f"poets/poet-{kills}"
        site.large.clear()
        site.pushes.clear()
        death.at(kills + 1, side)
        try:
            pushed(made, f"ms://{name}")
            was_killed = False
        except Killed:
            kills += 1
            left = site.files(f"models/{name}") if f"models/{name}" in site.repositories else {}
            if "artifact.json" in left:
                whole += 1
                must_be_whole(left)
            else:
                assert set(left) <= {".gitattributes", "README.md"}
        death.never()

        pushed(made, f"ms://{name}")

        must_be_whole(site.files(f"models/{name}"))
        assert site.pushes == ["LoRAAdapter by SFTJob poet"]
    assert kills == 1 + 3 + 2 + 2, (
        "the licence; the branch twice, the repository between; the weights asked for and sent; the commit, and the branch once more"
    )
    assert whole == (2 if side == "answered" else 1), "nothing is changed after the commit"


# ---- refused ----


@pytest.mark.parametrize(
    ("there", "message"),
    [
        pytest.param(
            {"model.safetensors": b"theirs"},
            "it has weights (model.safetensors) and no artifact.json, so they are not ours to replace: name another repository or branch, or remove "
            "them",
            id="weights of somebody else",
        ),
        pytest.param(
            {"artifact.json": b"{"},
            "the artifact.json there cannot be read, so nobody knows whose these files are: name another repository, or empty it",
            id="an artifact that cannot be read",
        ),
    ],
)
def test_what_lies_there_is_not_touched(there: dict[str, bytes], message: str, site: Site, made: Path) -> None:
    site.repositories[NAME] = Repository.of(there)

    with pytest.raises(PushRefused) as refused:
        pushed(made, PLACE)

    assert str(refused.value) == f"spec.publish[0].uri: {PLACE}: {message}"
    assert site.files(NAME) == there


@pytest.mark.parametrize(
    ("token", "state"),
    [("", "not set (in a pod: secretRef of this place)"), ("ms-wrong", "set")],
    ids=["no token", "another's token"],
)
def test_a_token_that_may_not_write_is_told_with_the_remedy(
    token: str, state: str, site: Site, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPACA_PLACE_0_MODELSCOPE_API_TOKEN", token)

    with pytest.raises(PushRefused) as refused:
        pushed(made, PLACE)

    assert isinstance(refused.value, SpecError)
    assert str(refused.value) == (
        f"spec.publish[0].uri: {PLACE}: {site.endpoint} does not let the token write there (401: user not logged in): give one with write access to "
        f"poets/poet in MODELSCOPE_API_TOKEN, which is {state}"
    )
    assert NAME not in site.repositories


def test_a_branch_that_is_not_there_is_not_made(site: Site, made: Path) -> None:
    site.repositories[NAME] = Repository.of({"LICENSE": b"theirs"})
    place = f"{PLACE}@v2"

    with pytest.raises(PushRefused) as refused:
        pushed(made, place)
    site.repositories[NAME].branches["v2"] = site.repositories[NAME].branches["master"]
    pushed(made, place)

    assert str(refused.value) == (
        f"spec.publish[0].uri: {place}: poets/poet has no branch v2, and its API makes none: make it at {site.endpoint}/models/poets/poet, or leave "
        "@v2 out"
    )
    assert set(site.files(NAME)) == {"LICENSE"}
    assert "artifact.json" in site.files(NAME, "v2")


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        pytest.param(
            {"Code": 10030000001, "Message": "branch is being updated", "Success": False},
            PlaceUnreachable,
            "it answers 400: branch is being updated",
            id="a commit that was under way",
        ),
        pytest.param(
            {"Code": 10030000007, "Message": "sensitive words", "Success": False},
            PushRefused,
            "refuses the push (400: sensitive words)",
            id="something that the site does not take",
        ),
    ],
)
def test_a_commit_that_is_not_taken_is_tried_again_where_that_helps(
    failure: dict[str, object], error: type[Exception], message: str, site: Site, made: Path
) -> None:
    site.commit_failure = failure

    with pytest.raises(error) as refused:
        pushed(made, PLACE)

    assert message in str(refused.value)
    assert "artifact.json" not in site.files(NAME)


# ---- read again ----


def test_what_was_pushed_is_an_input_with_the_digest_of_the_output(site: Site, made: Path, tmp_path: Path) -> None:
    done = pushed(made, PLACE)
    environment = Environment.read({"ALPACA_CACHE": str(tmp_path / "reader"), "ALPACA_RUN_ID": "r"})
    for uri in (PLACE, f"{PLACE}@{done.revision}"):
        adapter = AdapterSource(uri=uri)

        found = sources.locate(adapter, "adapter", environment, lambda: None)

        assert content_digest(found, adapter, uri, HashCache(tmp_path / "read.json"), None) == done.digest
    assert not (found / "loss.png").exists(), "only what is loaded is fetched"
