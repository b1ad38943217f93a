"""CRDs, operator and images are upgraded one after the other, in any order and back, while jobs run.

The next version is this one with a field, a word of the workload's and a field of its last word more. Every step from any mixture of the two
to the next is taken, there and back: whatever the order of an upgrade, it is made of these.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from alpaca_operator.api.contract import ANNOTATION_CONFIG, LABEL_NAME
from alpaca_operator.cluster.kube import Kube
from alpaca_operator.errors import ApiError
from tests.cluster.bed.controlplane import ControlPlane
from tests.operator.conftest import install_crds
from tests.operator.kubelet import Kubelet, Outcome
from tests.operator.process import OperatorProcess
from tests.operator.team import SFTJOBS, Team, sft_job

pytestmark = [pytest.mark.controlplane]

ROOT = Path(__file__).parents[2]
Part = Literal["CRDs", "operator", "images"]
PARTS: tuple[Part, ...] = ("CRDs", "operator", "images")
FIELD = '''    novelty: float = Field(0.5, ge=0, le=1)
    """How new."""
    output: Output
'''
TRIES = 10
READ = """
import json, sys
from alpaca_operator.api import KINDS
from workloads.runtime import command

def tell(job):
    print("READ " + json.dumps(getattr(job.spec, "novelty", None)))
    return 0

sys.exit(command.serve(KINDS["SFTJob"], tell, [sys.argv[1]]))
"""


@dataclass(frozen=True)
class Version:
    """A source tree: what of it an image and an operator are made of."""

    packages: Path
    crds: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.packages), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Version, Version]:
    """This one and the next."""
    found = []
    for number in range(2):
        folder = tmp_path_factory.mktemp(f"version-{number}")
        made = Version(folder / "packages", folder / "crd")
        for package in (ROOT / "operator" / "alpaca_operator", ROOT / "workloads"):
            shutil.copytree(package, made.packages / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        if number:
            _add(made.packages / "alpaca_operator" / "api" / "resource.py", "    output: Output\n", FIELD)
            _add(
                made.packages / "alpaca_operator" / "api" / "status.py",
                '    SUCCEEDED = "Succeeded"\n',
                '    MASTERED = "Mastered"\n    """Newer."""\n    SUCCEEDED = "Succeeded"\n',
            )
        made.crds.mkdir()
        _python(made, "-m", "alpaca_operator.api.crd", str(made.crds))
        found.append(made)
    return found[0], found[1]


def _add(file: Path, where: str, what: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(where) == 1
    file.write_text(text.replace(where, what), encoding="utf-8")


def _python(version: Version, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Away from this tree, whose own packages would come first."""
    environment = {**os.environ, **version.environment, **more}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=version.crds, capture_output=True, text=True, check=True
    )


@dataclass(frozen=True)
class Mastered(Outcome):
    """The last word of the next version."""

    def told(self) -> str:
        return json.dumps(
            {"reason": "Mastered", "novel": {"a": 1}, "step": 7, "totalSteps": 7, "metrics": {"evalLoss": 1.5}}
        )


class Images(Kubelet):
    """Reads the manifest of each pod as the image of a version does."""

    def __init__(self, kube: Kube, namespace: str, folder: Path, version: Version) -> None:
        super().__init__(kube, namespace)
        self.folder, self.version = folder, version
        self.said: dict[str, str] = {}

    async def _tend(self, pod: dict[str, Any], now: float) -> None:
        name = pod["metadata"]["labels"].get(LABEL_NAME, "")
        if name not in self.said and pod["spec"].get("nodeName"):
            self.said[name] = await asyncio.to_thread(
                self._read, name, pod["metadata"]["annotations"][ANNOTATION_CONFIG]
            )
        await super()._tend(pod, now)

    def _read(self, name: str, manifest: str) -> str:
        file = self.folder / f"{name}.json"
        file.write_text(manifest, encoding="utf-8")
        word = str(self.folder / "word")
        return _python(self.version, "-c", READ, str(file), ALPACA_IN_POD="1", ALPACA_TERMINATION_LOG=word).stdout


@pytest.fixture(scope="module")
def own_plane() -> Iterator[ControlPlane]:
    """Its CRDs change here."""
    with ControlPlane.temporary() as plane:
        install_crds(plane)
        yield plane


@pytest.fixture
async def crew(
    own_plane: ControlPlane, tmp_path: Path, versions: tuple[Version, Version]
) -> AsyncIterator[tuple[Team, Images]]:
    kube = await Kube.connect(str(own_plane.kubeconfig))
    with own_plane.namespace("skew"):
        player = Images(kube, "skew", tmp_path, versions[0])
        task = asyncio.create_task(player.run())
        await player.wait_ready()
        yield Team(own_plane, kube, "skew", player), player
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await kube.close()


def every_step() -> list[Part]:
    """A walk over all mixtures of two versions that takes each step between two of them once in each direction."""
    taken: set[tuple[tuple[bool, ...], int]] = set()
    back: list[int] = []

    def go(place: tuple[bool, ...]) -> None:
        for number in range(len(PARTS)):
            if (place, number) not in taken:
                taken.add((place, number))
                go(tuple(here != (number == each) for each, here in enumerate(place)))
                back.append(number)

    go((False,) * len(PARTS))
    return [PARTS[number] for number in reversed(back)]


async def served(team: Team, newer: bool) -> None:
    """The API server takes a CRD up some time after it has been applied."""
    path = f"{SFTJOBS.path(team.namespace)}?dryRun=All"
    async with asyncio.timeout(60):
        while True:
            probe = sft_job(team.namespace, "probe", novelty=0.9)
            with suppress(ApiError):
                made = await team.kube.write("create", "POST", SFTJOBS, path, probe)
                if ("novelty" in made["spec"]) == newer:
                    return
            await asyncio.sleep(0.2)


async def test_every_order_of_an_upgrade_and_back_loses_no_job(
    crew: tuple[Team, Images], versions: tuple[Version, Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    team, images = crew
    images.outcomes = {}
    images.starts_others = True
    operator = OperatorProcess(team.plane.kubeconfig, tmp_path / "operator.log", lease_name="skew")
    is_newer: dict[Part, bool] = dict.fromkeys(PARTS, False)

    def take_up() -> None:
        for name, setting in versions[is_newer["operator"]].environment.items():
            monkeypatch.setenv(name, setting)
        operator.start()

    steps, names = every_step(), ["long"]
    assert len(steps) == 24
    take_up()
    try:
        await team.apply("long")
        await team.state("long", "Starting", "Running")
        for number, part in enumerate(steps):
            is_newer[part] = not is_newer[part]
            match part:
                case "CRDs":
                    folder = versions[is_newer["CRDs"]].crds
                    team.plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(folder))
                    await served(team, is_newer["CRDs"])
                case "operator":
                    await asyncio.to_thread(operator.stop)
                    take_up()
                case "images":
                    images.version = versions[is_newer["images"]]
            honoured = is_newer["CRDs"] and is_newer["operator"]
            expected = 0.9 if honoured else 0.5
            for attempt in range(TRIES):
                name = f"short-{number}-{attempt}"
                names.append(name)
                images.outcomes[name] = (
                    Mastered() if is_newer["images"] else Outcome(more={"metrics": {"evalLoss": 1.5}})
                )
                await team.apply(name, **({"novelty": 0.9} if is_newer["CRDs"] else {}))
                job = await team.state(name, "Succeeded", seconds=120)
                assert job["status"]["metrics"] == {"evalLoss": 1.5}
                word, read = images.said[name].rpartition("READ ")[::2]
                found = json.loads(read), "spec.novelty is left out" in word
                # Watches go on for seconds by the schema that a CRD had before.
                if found == ((expected, False) if is_newer["images"] else (None, honoured)) or part != "CRDs":
                    break
            assert found == ((expected, False) if is_newer["images"] else (None, honoured)), is_newer
        assert is_newer == dict.fromkeys(PARTS, False)
        images.outcomes["long"] = Outcome()
        job = await team.state("long", "Succeeded")
        assert job["status"]["restarts"] == {"user": 0, "infra": 0, "total": 0}
        assert images.started == dict.fromkeys(names, 1)
        assert "Traceback" not in operator.said()
    finally:
        print(operator.said()[-5000:])
        operator.stop()
