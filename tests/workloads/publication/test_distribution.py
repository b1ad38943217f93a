"""A push to a registry that is not ours: CNCF Distribution takes it, gives it back, and holds nothing of one that was broken off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from alpaca_operator.api.sources import AdapterSource
from tests.workloads.publication.distribution import PASSWORD, USER, Server, registry
from tests.workloads.publication.made import FILES, make
from tests.workloads.publication.pushing import Death, Killed, must_be_whole, pushed
from workloads.publication.place import PushRefused
from workloads.storage import sources
from workloads.storage.contents import content_digest
from workloads.storage.hashing import HashCache
from workloads.system.environment import Environment


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with registry(tmp_path) as served:
        yield served


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make(tmp_path / "poet", inputs={})
    return tmp_path / "poet"


def test_what_was_pushed_lies_there_once_and_is_an_input_with_the_digest_of_the_output(
    server: Server, made: Path, tmp_path: Path
) -> None:
    place = f"oci://{server.address}/poets/poet:v1"

    done = pushed(made, place)

    assert pushed(made, place) == done
    assert server.tags("poets/poet") == ["v1"]
    must_be_whole(server.files("poets/poet", "v1"))
    environment = Environment.read({"ALPACA_CACHE": str(tmp_path / "reader"), "ALPACA_RUN_ID": "r"})
    for uri in (place, f"oci://{server.address}/poets/poet@{done.revision}"):
        adapter = AdapterSource(uri=uri)
        found = sources.locate(adapter, "adapter", environment, lambda: None)
        assert (found / "adapter_model.safetensors").read_bytes() == FILES["adapter_model.safetensors"]
        assert content_digest(found, adapter, uri, HashCache(tmp_path / "read.json"), None) == done.digest


def test_a_push_killed_at_any_answer_leaves_no_tag_and_the_next_ends_it(
    death: Death,
    server: Server,
    made: Path,
) -> None:
    kills, was_killed, tagged = 0, True, []
    while was_killed:
        name = f"poets/poet-{kills}"
        death.at(kills + 1, "answered")
        try:
            pushed(made, f"oci://{server.address}/{name}:v1")
            was_killed = False
        except Killed:
            kills += 1
            tagged.append(server.tags(name))
        death.never()

        pushed(made, f"oci://{server.address}/{name}:v1")

        must_be_whole(server.files(name, "v1"))
    assert tagged == [[]] * (kills - 1) + [["v1"]], "the manifest is the last request"
    assert kills > len(FILES)


def test_a_registry_that_asks_for_a_password_is_given_it(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry(tmp_path, asks_for_password=True) as server:
        place = f"oci://{server.address}/poets/poet:v1"
        monkeypatch.setenv("ALPACA_PLACE_0_REGISTRY_USERNAME", USER)
        monkeypatch.setenv("ALPACA_PLACE_0_REGISTRY_PASSWORD", "sunshine")
        with pytest.raises(PushRefused) as refused:
            pushed(made, place)
        monkeypatch.setenv("ALPACA_PLACE_0_REGISTRY_PASSWORD", PASSWORD)

        first = pushed(made, place)

        assert pushed(made, place) == first
    assert "check REGISTRY_USERNAME and REGISTRY_PASSWORD, which are set" in str(refused.value)
