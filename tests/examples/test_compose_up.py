"""What the head of compose.yaml says, typed: a manifest run in a container, what it made served, its page opened and its API asked."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.cluster.bed import images
from tests.cluster.bed.docker import Docker
from tests.examples.test_compose import COMPOSE, FOLDER, services
from tests.workloads import library
from tests.workloads.browser import chromium
from tests.workloads.serving.page.steps import answers, ask, idle

pytestmark = [pytest.mark.cluster, pytest.mark.drill]

OWNER = 1000
"""Of ./storage: the first user of most machines, as compose.yaml has it."""
SFT = """\
apiVersion: literary-alpaca.io/v1alpha1
kind: SFTJob
metadata: {name: poet}
spec:
  model: {uri: pvc://models/base}
  dataset: {train: [{uri: pvc://data/rows.json}]}
  template: HumanAssistant
  method: Full
  training: {epochs: 4, learningRate: 1e-2, sequenceLength: 256, batchSizePerDevice: 8, gradientAccumulation: 1}
  output: {uri: pvc://models/poet}
"""
GGUF = """\
apiVersion: literary-alpaca.io/v1alpha1
kind: QuantizeJob
metadata: {name: poet-gguf}
spec:
  model: {uri: pvc://models/poet}
  format: GGUF
  gguf: {type: Q8_0}
  calibration: {train: [{uri: pvc://data/rows.json}], sequenceLength: 256}
  evaluation: {answers: 0}
  output: {uri: pvc://models/poet-gguf}
"""
ANSWER = "the moon"
QUESTION = "Poem 7: what is it about?"


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    if os.environ.get("ALPACA_TEST_CLUSTER"):
        pytest.skip("runs a Docker engine of its own, in namespaces that take root (ALPACA_TEST_CLUSTER is set)")
    with Docker.temporary() as engine:
        for name in sorted({service["image"] for service in services().values()}):
            engine.load(images.linked(name.rpartition("/")[2]), name)
        yield engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has after `git clone`, as far as compose.yaml reads it, and a model in ./storage."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(COMPOSE, home)
    shutil.copytree(FOLDER, home / "examples" / "compose")
    (home / "sft.yaml").write_text(SFT, encoding="utf-8")
    (home / "gguf.yaml").write_text(GGUF, encoding="utf-8")
    library.write_base(home / "storage" / "models" / "base")
    (home / "storage" / "data").mkdir()
    rows = [
        {"instruction": f"Poem {number}: what is it about?", "input": "", "output": ANSWER} for number in range(200)
    ]
    (home / "storage" / "data" / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    for path in (home / "storage", *(home / "storage").rglob("*")):
        shutil.chown(path, OWNER, OWNER)
        path.chmod(0o755 if path.is_dir() else 0o644)
    return home


@pytest.fixture(scope="module")
def poet(docker: Docker, folder: Path) -> Path:
    """What a manifest made, run in a container."""
    docker.compose("--profile", "job", "run", "--rm", "job", cwd=folder, MANIFEST="sft.yaml")
    return folder / "storage" / "models" / "poet"


@pytest.mark.timeout(1800)
def test_what_a_manifest_made_is_served(docker: Docker, folder: Path, poet: Path) -> None:
    assert (poet / "artifact.json").stat().st_uid == OWNER
    docker.compose("up", "--wait", cwd=folder)
    try:
        with chromium(docker.enter) as browser:
            page = browser.new_page()
            page.goto("http://127.0.0.1:7860")
            expect(page.locator("#header .words")).to_have_text("poet")
            ask(page, QUESTION)
            expect(answers(page)).to_contain_text(ANSWER)
            idle(page)
        assert asked(docker) == ANSWER
        program = "echo '#!/bin/sh' > /tmp/program && chmod +x /tmp/program && /tmp/program && echo it ran"
        assert docker.compose("exec", "-T", "engine", "sh", "-c", program, cwd=folder).endswith("it ran\n")
    finally:
        docker.compose("down", cwd=folder)


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("poet")
def test_a_file_for_llama_cpp_is_made_and_served(docker: Docker, folder: Path) -> None:
    image = {"IMAGE": "quantize", "MANIFEST": "gguf.yaml"}
    docker.compose("--profile", "job", "run", "--rm", "job", cwd=folder, **image)
    docker.compose("up", "--wait", cwd=folder, CHAT="gguf", MODEL="poet-gguf")
    try:
        assert asked(docker) == ANSWER
    finally:
        docker.compose("down", cwd=folder)


ASK = """
import json, sys, urllib.request as u
request = u.Request("http://127.0.0.1:8000/v1/chat/completions", sys.argv[1].encode(), {"Content-Type": "application/json"})
print(json.load(u.urlopen(request))["choices"][0]["message"]["content"])
"""


def asked(docker: Docker) -> str:
    """What the API answers the question, on this machine's loopback as far as the engine's network is it."""
    body = {"model": "poet", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    return docker.inside(sys.executable, "-c", ASK, json.dumps(body)).strip()
