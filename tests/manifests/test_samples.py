"""Every sample meets its model, becomes a plan, and is taken by a real API server with all its rules."""

from __future__ import annotations

import pytest

from alpaca_operator.api import GROUP, KINDS
from alpaca_operator.api.resource import Job
from alpaca_operator.plan import PLANNERS
from tests.golden import SETTINGS, load_all, made_by
from tests.manifests.build import MANIFESTS, read, samples
from workloads.manifest import chain

FILES = {
    path: found
    for path in samples()
    if (found := [each for each in read(path) if each["apiVersion"].startswith(GROUP)])
}
"""The files that hold jobs, most of them one."""
OURS = [(path, obj) for path, found in FILES.items() for obj in found]
IDS = [f"{path.relative_to(MANIFESTS / 'samples')}: {obj['metadata']['name']}" for path, obj in OURS]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(MANIFESTS / "samples")))
def test_a_sample_meets_its_model_and_becomes_a_plan(path):
    jobs = load_all(path)
    for job in jobs:
        assert PLANNERS[job.kind](job, made_by(jobs, job), SETTINGS).refusal is None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(MANIFESTS / "samples")))
def test_a_chain_fits_together(path):
    """As `python -m workloads --dry-run` finds out."""
    jobs = [each for each in load_all(path) if isinstance(each, Job)]  # what serves is no step
    assert {step.job.metadata.name for step in chain.steps(jobs)} == {job.metadata.name for job in jobs}


@pytest.mark.parametrize(("path", "obj"), OURS, ids=IDS)
def test_a_sample_is_named_as_its_file(path, obj):
    """The last step of a chain is what it is for; the steps before it begin with the same name."""
    name = obj["metadata"]["name"]
    assert path.parent.name != "models" or name.startswith(path.stem)
    assert path.parent.name != "models" or FILES[path][-1]["metadata"]["name"] == path.stem
    if output := obj["spec"].get("output"):
        assert output["uri"].endswith(f"/{name}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(MANIFESTS / "samples")))
def test_a_sample_says_what_it_is_for(path):
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_there_is_a_smallest_sample_of_every_kind():
    smallest = {obj["kind"] for path, obj in OURS if path.parent == MANIFESTS / "samples" and len(FILES[path]) == 1}
    assert smallest == set(KINDS)


@pytest.mark.parametrize(
    "model",
    [
        "Llama-2-7b-chat-hf",
        "Llama-2-13b-chat-hf",
        "Llama2-Chinese-7b-Chat",
        "Llama2-Chinese-13b-Chat",
        "Llama2-Chinese-7b-Chat-LoRA",
        "llama2-chinese-13b-chat-4bit",
        "Atom-7B",
        "Atom-7B-Chat",
        "literary-alpaca2-13b-base",
        "Meta-Llama-3-8B-Instruct",
        "Llama-3.1-8B-Instruct",
        "Llama-3.1-70B-Instruct",
        "Llama-3.2-3B-Instruct",
        "Llama-3.3-70B-Instruct",
        "Qwen2.5-7B-Instruct",
        "Qwen3-8B",
        "Qwen3-32B",
        "CodeLlama-7b-Instruct-hf",
    ],
)
def test_every_model_that_people_ask_for_has_a_sample(model):
    specs = [obj["spec"] for _, obj in OURS]
    named = [spec[field].get("uri", "") for spec in specs for field in ("model", "adapter", "output") if field in spec]
    assert any(uri.rpartition("/")[2] == model for uri in named)


@pytest.mark.controlplane
def test_the_api_server_takes_every_sample(installed):
    files = [argument for path in FILES for argument in ("-f", str(path))]
    said = installed.kubectl("apply", "--server-side", "--dry-run=server", *files)
    assert said.count("serverside-applied (server dry run)") == len(OURS)
