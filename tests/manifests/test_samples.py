"""Every sample meets its model, becomes a plan, and is taken by a real API server with all its rules."""

from __future__ import annotations

import pytest

from alpaca_operator.api import KINDS
from alpaca_operator.plan import PLANNERS
from tests.golden import SETTINGS
from tests.manifests.build import MANIFESTS, read, samples

OURS = {path: obj for path in samples() for obj in read(path) if obj["apiVersion"].startswith("literary-alpaca.io/")}
IDS = [str(path.relative_to(MANIFESTS / "samples")) for path in OURS]


@pytest.mark.parametrize("obj", OURS.values(), ids=IDS)
def test_a_sample_meets_its_model_and_becomes_a_plan(obj):
    resource = KINDS[obj["kind"]].model_validate(obj)
    assert PLANNERS[resource.kind](resource, {}, SETTINGS).refusal is None


@pytest.mark.parametrize(("path", "obj"), OURS.items(), ids=IDS)
def test_a_sample_is_named_as_its_file(path, obj):
    assert path.parent.name != "models" or obj["metadata"]["name"] == path.stem
    assert obj["spec"]["output"]["uri"].endswith(f"/{obj['metadata']['name']}")


@pytest.mark.parametrize("path", OURS, ids=IDS)
def test_a_sample_says_what_it_is_for(path):
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_there_is_a_smallest_sample_of_every_kind():
    smallest = {obj["kind"] for path, obj in OURS.items() if path.parent == MANIFESTS / "samples"}
    assert smallest == set(KINDS)


@pytest.mark.parametrize(
    "model",
    [
        "Llama-2-7b-chat-hf",
        "Llama-2-13b-chat-hf",
        "Llama2-Chinese-7b-Chat",
        "Llama2-Chinese-13b-Chat",
        "Llama2-Chinese-7b-Chat-LoRA",
        "Atom-7B",
        "Atom-7B-Chat",
        "literary-alpaca2-13b-base",
        "Meta-Llama-3-8B-Instruct",
    ],
)
def test_every_model_that_the_references_name_has_a_sample(model):
    sources = [
        source["uri"]
        for obj in OURS.values()
        for source in (obj["spec"]["model"], obj["spec"].get("adapter"))
        if source
    ]
    assert any(uri.rpartition("/")[2] == model for uri in sources)


@pytest.mark.controlplane
def test_the_api_server_takes_every_sample(installed):
    files = [argument for path in OURS for argument in ("-f", str(path))]
    said = installed.kubectl("apply", "--server-side", "--dry-run=server", *files)
    assert said.count("serverside-applied (server dry run)") == len(OURS)
