"""A push to a registry: the manifest last; broken off anywhere, the tag names what it named before, and the next try ends it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from alpaca_operator.api.sources import AdapterSource
from tests.workloads.publication.made import CARD, FILES, make
from tests.workloads.publication.pushing import Death, Killed, must_be_whole, pushed
from tests.workloads.publication.registry_server import BASIC, PASSWORD, USER, Server, registry
from workloads.errors import InputError, SpecError
from workloads.publication.place import PlaceUnreachable, PushRefused
from workloads.storage import sources
from workloads.storage.contents import content_digest
from workloads.storage.hashing import HashCache
from workloads.system.environment import Environment


@pytest.fixture
def server() -> Iterator[Server]:
    with registry() as served:
        yield served


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make(tmp_path / "poet", inputs={})
    return tmp_path / "poet"


def test_a_model_is_a_manifest_with_a_layer_for_each_file(server: Server, made: Path) -> None:
    place = f"oci://{server.address}/poets/poet:v1"

    done = pushed(made, place)

    files = server.files("poets/poet", "v1")
    must_be_whole(files)
    assert files["adapter_model.safetensors"] == FILES["adapter_model.safetensors"]
    assert 'PeftModel.from_pretrained(base, "path/of/this/folder")' in files["README.md"].decode()
    content = server.manifests["poets/poet", "v1"]
    assert done.revision == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert done.digest == json.loads(files["artifact.json"])["digest"]
    manifest = json.loads(content)
    assert manifest["artifactType"] == "application/vnd.literary-alpaca.model.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"


def test_a_tag_moves_to_the_next_model_and_the_one_before_stays_by_its_digest(
    server: Server, made: Path, tmp_path: Path
) -> None:
    place = f"oci://{server.address}/poets/poet:v1"
    first = pushed(made, place)
    newer = tmp_path / "newer" / "poet"
    make(newer, {"model.safetensors": b"merged", "config.json": b"{}", "README.md": CARD.encode()}, inputs={})

    second = pushed(newer, place)

    assert pushed(newer, place) == second, "what is there already is not sent again"
    assert set(server.files("poets/poet", "v1")) == {"README.md", "artifact.json", "config.json", "model.safetensors"}
    must_be_whole(server.files("poets/poet", first.revision))


# ---- broken off ----


@pytest.mark.parametrize("side", ["sent", "answered"])
def test_a_push_killed_at_any_request_leaves_no_tag_and_the_next_ends_it(
    side: str, death: Death, server: Server, made: Path
) -> None:
    kills = tagged = 0
    was_killed = True
    while was_killed:
        name = f"poets/poet-{kills}"
        death.at(kills + 1, side)
        try:
            pushed(made, f"oci://{server.address}/{name}:v1")
            was_killed = False
        except Killed:
            kills += 1
            if server.tags(name):
                tagged += 1
                must_be_whole(server.files(name, "v1"))
        death.never()

        pushed(made, f"oci://{server.address}/{name}:v1")

        must_be_whole(server.files(name, "v1"))
    assert kills == 2 + 3 * 7, (
        "asked for the tag; of six files and an empty configuration each asked for, begun and sent; the manifest"
    )
    assert tagged == (side == "answered"), "the manifest is the last request"


# ---- logins ----


def test_a_registry_that_asks_for_a_password_is_given_it(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with registry("Basic") as server:
        place = f"oci://{server.address}/poets/poet:v1"
        with pytest.raises(PushRefused) as refused:
            pushed(made, place)
        assert str(refused.value) == (
            f"spec.publish[0].uri: {place}: {server.address} does not let this login push to poets/poet (401: it asks for a login): check "
            "REGISTRY_USERNAME and REGISTRY_PASSWORD, which are not both set (in a pod: secretRef)"
        )
        monkeypatch.setenv("ALPACA_PLACE_0_REGISTRY_USERNAME", USER)
        monkeypatch.setenv("ALPACA_PLACE_0_REGISTRY_PASSWORD", PASSWORD)

        pushed(made, place)

        must_be_whole(server.files("poets/poet", "v1"))


def test_a_registry_with_a_token_server_is_given_a_token_for_what_it_asks(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with registry("Bearer") as server:
        login = {"auths": {server.address: {"auth": BASIC.removeprefix("Basic ")}}}
        (tmp_path / "config.json").write_text(json.dumps(login))

        pushed(made, f"oci://{server.address}/poets/poet:v1")

        must_be_whole(server.files("poets/poet", "v1"))
    assert server.scopes == ["repository:poets/poet:pull", "repository:poets/poet:pull,push"]


# ---- refused ----


def test_an_image_of_somebody_else_is_not_replaced(server: Server, made: Path) -> None:
    theirs = server.image("poets/poet", "v1")
    place = f"oci://{server.address}/poets/poet:v1"

    with pytest.raises(PushRefused) as refused:
        pushed(made, place)

    assert str(refused.value) == (
        f"spec.publish[0].uri: {place}: the tag names {theirs}, which has no artifact.json, so it is not ours to replace: name another tag, or "
        "remove that one"
    )


def test_a_registry_that_is_not_there_is_worth_another_try(made: Path) -> None:
    with pytest.raises(PlaceUnreachable) as broken:
        pushed(made, "oci://127.0.0.1:9/poets/poet:v1")

    assert str(broken.value).startswith(
        "spec.publish[0].uri: oci://127.0.0.1:9/poets/poet:v1: 127.0.0.1:9: it broke off: "
    )


# ---- read ----


def read(uri: str, folder: Path) -> Path:
    environment = Environment.read({"ALPACA_CACHE": str(folder / "reader"), "ALPACA_RUN_ID": "r"})
    return sources.locate(AdapterSource(uri=uri), "adapter", environment, lambda: None)


def test_what_was_pushed_is_an_input_with_the_digest_of_the_output(server: Server, made: Path, tmp_path: Path) -> None:
    done = pushed(made, f"oci://{server.address}/poets/poet:v1")

    for reference in (":v1", f"@{done.revision}"):
        uri = f"oci://{server.address}/poets/poet{reference}"
        found = read(uri, tmp_path)
        digest = content_digest(found, AdapterSource(uri=uri), uri, HashCache(tmp_path / "read.json"), None)
        assert digest == done.digest
    assert not (found / "loss.png").exists(), "only what is loaded is fetched"


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        pytest.param(
            "oci://{at}/poets/poet:v2",
            InputError,
            "spec.adapter.uri: {uri}: {at} has no poets/poet v2: check the name and the tag",
            id="another tag",
        ),
        pytest.param(
            "oci://{at}/theirs/image:v1",
            InputError,
            "spec.adapter.uri: {uri}: its layers name no files (it is a application/vnd.oci.image.config.v1+json): push the files themselves, as "
            "`oras push` does",
            id="an image",
        ),
        pytest.param(
            "oci://{at}/poets/poet",
            SpecError,
            "spec.adapter.uri: {uri}: write oci://registry/repository:tag or oci://registry/repository@sha256:…, the repository in small letters",
            id="no tag",
        ),
    ],
)
def test_what_cannot_be_read_is_named(
    uri: str, error: type[Exception], message: str, server: Server, made: Path, tmp_path: Path
) -> None:
    pushed(made, f"oci://{server.address}/poets/poet:v1")
    server.image("theirs/image", "v1")
    uri = uri.format(at=server.address)

    with pytest.raises(error) as refused:
        read(uri, tmp_path)

    assert str(refused.value) == message.format(uri=uri, at=server.address)
