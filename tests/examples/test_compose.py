"""compose.yaml: held against the Compose Specification's own schema, and its paths, names and commands against what they stand for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from alpaca_operator.api import KINDS, contract
from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.pod import PodSettings
from alpaca_operator.api.sources import sources
from tests.images.test_containerfiles import text as containerfile
from workloads.manifest import chain, spec
from workloads.runtime import command
from workloads.serving.guard import addresses
from workloads.storage.uri import local_path
from workloads.system.environment import Environment

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "compose"
COMPOSE = ROOT / "compose.yaml"
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
CHATS = sorted(path.stem for path in FOLDER.glob("*.yaml") if "ChatDeployment" in path.read_text(encoding="utf-8"))


def valid(path: Path) -> subprocess.CompletedProcess[str]:
    arguments = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)


def services(**variables: str) -> dict[str, Any]:
    """As compose reads them with these variables in its environment."""
    filled = VARIABLE.sub(lambda match: variables.get(match[1], match[2]), COMPOSE.read_text(encoding="utf-8"))
    found: dict[str, Any] = yaml.safe_load(filled)["services"]
    return found


def mounts(service: dict[str, Any]) -> dict[PurePosixPath, str]:
    """Paths in the container, by the paths on this machine that they show."""
    parts = [volume.split(":") for volume in service["volumes"]]
    return {PurePosixPath(inside): outside for outside, inside, *_ in parts}


def is_mounted(path: Path | str, service: dict[str, Any]) -> bool:
    return any(PurePosixPath(path).is_relative_to(place) for place in mounts(service))


def environment(service: dict[str, Any]) -> dict[str, str]:
    return {name: value for name, value in service["environment"].items() if value is not None}


def test_the_schema_takes_them_and_would_not_take_everything(tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text(COMPOSE.read_text(encoding="utf-8").replace("read_only: true", "readonly: yes"), encoding="utf-8")
    assert valid(COMPOSE).returncode == 0, valid(COMPOSE).stdout
    assert valid(FOLDER / "gpu.yaml").returncode == 0
    refused = valid(broken)
    assert refused.returncode == 1
    assert "readonly" in refused.stdout


@pytest.mark.parametrize("image", ["train", "quantize"])
def test_what_it_builds_and_mounts_is_there(image: str) -> None:
    for service in services(IMAGE=image).values():
        build = service["build"]
        assert (ROOT / build["context"] / build["dockerfile"]).is_file()
        assert service["image"].rpartition("/")[2] == Path(build["dockerfile"]).parent.name
        places = [outside for outside in mounts(service).values() if not outside.startswith("./storage")]
        assert [outside for outside in places if not (ROOT / outside).is_file()] == []


@pytest.mark.parametrize("chat", CHATS)
def test_engine_and_page_find_what_they_are_told_of(chat: str) -> None:
    assert "chat" in CHATS
    found = services(CHAT=chat, MODEL="mine")
    for name in ("engine", "page"):
        service = found[name]
        variables = environment(service)
        assert variables.keys() <= {value for key, value in vars(contract).items() if key.startswith("ENV_")}
        file, _, overrides = command.parse(ChatDeployment, service["command"])
        assert file is not None
        shown = mounts(service)[PurePosixPath(file)]
        job = spec.load_job(ChatDeployment, str(ROOT / shown), None, overrides)
        read = Environment.read(variables)
        assert read.in_pod, "it listens beyond the container"
        assert not addresses.of(job, variables, read.in_pod).any_host
        assert PurePosixPath(str(read.termination_log)).is_relative_to("/tmp")
        if name == "engine":
            [(field, source)] = sources(job.spec)
            path = local_path(str(source.uri), read, field)
            assert (str(path), is_mounted(path, service)) == ("/mnt/models/mine", True)


def test_the_page_is_beside_the_engine_and_both_are_of_this_machine_alone() -> None:
    found = services()
    assert found["page"]["network_mode"] == "service:engine"
    assert found["page"]["environment"][contract.ENV_ENGINE_URL] == f"http://127.0.0.1:{contract.API_PORT}/v1"
    ports = (contract.PAGE_PORT, contract.API_PORT)
    assert found["engine"]["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports]


def test_a_container_has_the_memory_to_share_of_a_pod_and_builds_kernels_where_it_may_load_them() -> None:
    for service in services().values():
        assert service["tmpfs"] == ["/tmp:exec"]
        assert service["shm_size"].removesuffix("b") == PodSettings().shm_size.removesuffix("i").lower()


def test_each_image_runs_what_it_is_made_for() -> None:
    found = services()
    modules = {name: (service.get("entrypoint") or _entrypoint(service))[-1] for name, service in found.items()}
    assert modules == {"engine": "workloads.engine", "page": "workloads.chat_ui", "job": "workloads"}


def _entrypoint(service: dict[str, Any]) -> list[str]:
    [line] = re.findall(
        r"^ENTRYPOINT (.*)$", containerfile(Path(service["build"]["dockerfile"]).parent.name), re.MULTILINE
    )
    found: list[str] = yaml.safe_load(line)
    return found


def test_a_job_finds_its_inputs_where_they_are_mounted() -> None:
    service = services()["job"]
    read = Environment.read(environment(service))
    assert service["profiles"] == ["job"]
    assert is_mounted(read.cache, service)
    [inside] = service["command"]
    manifest = ROOT / mounts(service)[PurePosixPath(inside)]
    [step] = chain.steps(spec.load_all(KINDS, str(manifest), None))
    uris = [str(source.uri) for _, source in sources(step.job.spec)]
    assert uris
    assert all(is_mounted(local_path(uri, read, "model"), service) for uri in uris)
