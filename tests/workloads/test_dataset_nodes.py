"""A corpus that several machines make, here processes that share nothing but a folder: the bytes are those that one makes alone, whichever of
them is lost."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.workloads.curation.corpora import write_lines
from tests.workloads.literature import chinese
from tests.workloads.process import Ended, Process
from tests.workloads.process import Place as ProcessPlace
from tests.workloads.test_dataset import _At, published

SPEC = {
    "sources": [{"uri": "web"}],
    "filters": {"minCharacters": 20},
    "deduplicate": {"near": {}},
    "split": {"validationDocuments": 20},
    "parallelism": {"nodes": 2, "processesPerNode": 1},
    "output": {"uri": "out"},
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shares of pages, some of which come twice, or nearly."""
    folder = tmp_path_factory.mktemp("raw")
    lines = chinese(24_000)
    pages = ["\n".join(lines[start : start + 40]) for start in range(0, len(lines), 40)]
    for number in range(4):
        part = pages[number * 150 : (number + 1) * 150] * 2
        part += [page.replace("山", "水", 1) for page in pages[:40]]
        write_lines(folder / f"{number}.jsonl", part)
    assert sum(path.stat().st_size for path in folder.iterdir()) > 4 << 20
    return folder


@pytest.fixture(scope="module")
def whole(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one machine makes alone."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "web").symlink_to(raw)
    ended = start(folder, None).end(600)
    assert ended.code == 0, ended.err
    return published(folder / "out")


@pytest.fixture
def place(raw: Path, tmp_path: Path) -> Path:
    (tmp_path / "web").symlink_to(raw)
    return tmp_path


def start(folder: Path, node: int | None, *flags: str) -> Process:
    """The machine of this number; None makes all alone, whatever the spec says."""
    manifest = {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "DatasetJob",
        "metadata": {"name": "poems"},
        "spec": SPEC,
    }
    (folder / "job.json").write_text(json.dumps(manifest), encoding="utf-8")
    which = {} if node is None else {"ALPACA_NODE": str(node), "ALPACA_GROUP": "uid-job"}
    environ = ProcessPlace.environ(_At(folder), **which)  # type: ignore[arg-type]
    return Process(
        [sys.executable, "-m", "workloads.dataset", "job.json", *flags], folder, environ, tag=f"{node or 0}-"
    )


def end(*machines: Process) -> list[Ended]:
    ended = [machine.end(600) for machine in machines]
    assert [one.code for one in ended] == [0] * len(ended), [one.err for one in ended]
    return ended


def test_two_machines_make_what_one_does(place: Path, whole: dict[str, bytes]) -> None:
    first, second = end(start(place, 0), start(place, 1))
    assert published(place / "out") == whole
    for ended, index in ((first, 0), (second, 1)):
        assert any(message.startswith(f"node {index} of 2, over ") for message in ended.messages)
        assert "reading: 2 shares in 1 process" in ended.messages
    assert first.last_word["output"]["kind"] == "Dataset"
    assert "output" not in second.last_word, "one publishes"
    assert first.last_word["step"] == first.last_word["totalSteps"] > 0
    assert not list((place / "cache").glob("curation/nodes-*"))
    (late,) = end(start(place, 1))
    assert late.last_word["reason"] == "Reused"


@pytest.mark.parametrize(
    ("stage", "lost"),
    [
        pytest.param("reading", 1, id="reading"),
        pytest.param("signing", 0, id="signing"),
        pytest.param("banding", 1, id="looking for pairs"),
        pytest.param("clustering", 0, id="choosing from clusters"),
        pytest.param("writing", 1, id="writing"),
    ],
)
def test_one_that_is_lost_makes_its_part_again_and_the_other_goes_on(
    place: Path, whole: dict[str, bytes], stage: str, lost: int
) -> None:
    machines = [start(place, 0), start(place, 1)]
    victim = machines[lost]
    victim.until(lambda _: any((place / "cache").glob(f"curation/{stage}-*/completions/*")), seconds=300)
    victim.send(signal.SIGKILL)
    assert victim.end().code == -signal.SIGKILL
    machines[lost] = start(place, lost)
    ended = end(*machines)
    assert published(place / "out") == whole
    assert any("found 2 of 2 shares made" in message for message in ended[lost].messages) or stage == "reading"


def test_two_machines_make_every_stage_that_there_is(place: Path) -> None:
    flags = (
        "--deduplicate.exact",
        "Paragraph",
        "--shuffle",
        "true",
        "--format",
        "Parquet",
        "--mixing.temperature",
        "2",
    )
    end(start(place, None, *flags, "--output.uri", "alone"))
    (place / "cache").rename(place / "cache-of-the-one")
    machines = [start(place, 0, *flags), start(place, 1, *flags)]
    machines[1].until(lambda _: any((place / "cache").glob("curation/scattering-*/completions/*")), seconds=300)
    machines[1].send(signal.SIGKILL)
    machines[1].end()
    machines[1] = start(place, 1, *flags)
    end(*machines)
    assert published(place / "out") == published(place / "alone")


def test_a_machine_without_its_place_is_refused(place: Path) -> None:
    ended = start(place, 2).end()
    assert ended.code == 64
    assert (
        ended.last_word["message"]
        == "ALPACA_NODE is 2, and spec.parallelism.nodes is 2: set it to 0 to 1, or ask for more nodes"
    )


def test_one_that_never_comes_is_told(place: Path) -> None:
    ended = start(place, 0, "--failurePolicy.hangTimeoutSeconds", "10").end()
    assert ended.code == 70
    message = ended.last_word["message"]
    assert message.startswith(
        "node 1 of 2 has not come, and showed no life for 10 s (failurePolicy.hangTimeoutSeconds)"
    )
    assert str(place / "cache" / "curation") in message
