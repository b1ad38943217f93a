"""Machines that meet in a folder: who is waited for, and how long."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.curation import corpora
from workloads.curation import nodes, shares
from workloads.curation.nodes import Meeting, Node
from workloads.errors import Interrupted, WorkloadError


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(nodes, "LOOK_SECONDS", 0.01)


def meeting(folder: Path, index: int, patience: float = 60, group: str = "a") -> Meeting:
    return Meeting(Node(index, 2, group), folder, patience, lambda: None, lambda _: None)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_share_is_somebodys(count: int) -> None:
    parts = [list(Node(index, count).part(4)) for index in range(count)]
    assert sorted(rank for part in parts for rank in part) == [0, 1, 2, 3]
    assert parts[0][0] == 0, "what is one share is the first machine's"


def test_each_waits_until_the_other_has_made_its_part(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        other = meeting(tmp_path, 1)
        with other.joined():
            order.append("made")
            other.wait("reading", 4)
            other.leave("writing")

    thread = threading.Thread(target=second)
    thread.start()
    first = meeting(tmp_path, 0)
    with first.joined():
        first.wait("reading", 4)
        order.append("seen")
        first.wait("clustering", 1)  # has one share, which is its own
        first.wait("writing", 4)
        thread.join()
        assert (first.has_left(0), first.has_left(1)) == (False, True)
    assert order == ["made", "seen"]
    assert not list(tmp_path.iterdir())


def test_what_another_run_left_there_is_nobodys(tmp_path: Path) -> None:
    earlier = meeting(tmp_path, 1, group="earlier")
    (tmp_path / "nodes-earlier").mkdir()
    earlier.leave("reading")
    with pytest.raises(WorkloadError, match=r"node 1 of 2 has not come"), meeting(tmp_path, 0, patience=0.1).joined():
        raise AssertionError("nobody else is there")


def test_one_that_falls_silent_is_lost(tmp_path: Path) -> None:
    (tmp_path / "nodes-a").mkdir()
    (tmp_path / "nodes-a" / "alive.1").write_text("its last sign")
    first = meeting(tmp_path, 0, patience=0.2)
    told = r"node 1 of 2 has not made its part of reading, and showed no life for 0 s .* \(ReadWriteMany\)"
    with first.joined(), pytest.raises(WorkloadError, match=told):
        first.wait("reading", 4)


def test_what_is_said_to_be_made_has_to_be_seen(tmp_path: Path) -> None:
    looks: Iterator[list[int]] = iter([[1, 3], [3], []])
    meeting(tmp_path, 0).wait_until_seen(lambda: next(looks), "reading")
    with pytest.raises(WorkloadError, match=r"share 3 of reading was made by node 1, and node 0 does not see it in "):
        meeting(tmp_path, 0, patience=0.05).wait_until_seen(lambda: [3], "reading")


def test_who_waits_can_be_stopped(tmp_path: Path) -> None:
    def stop() -> None:
        raise Interrupted("stopped")

    waiting = Meeting(Node(0, 2, "a"), tmp_path, 60, stop, lambda _: None)
    with pytest.raises(Interrupted, match="stopped"), waiting.joined():
        raise AssertionError("nobody else is there")


def test_the_first_takes_nothing_away_while_another_is_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the last stage the other has no share, and it is slow to look at what the first had made before."""
    monkeypatch.setattr(shares, "SHARE_BYTES", 2000)
    for number in range(4):
        corpora.write_lines(tmp_path / "web" / f"{number}.jsonl", [f"第{number}页{line}行" * 9 for line in range(30)])
    published = threading.Event()
    look = Meeting.wait_until_seen

    def late(self: Meeting, missing: Callable[[], Iterable[int]], name: str) -> None:
        if self.node.index == 1 and name.startswith("scattering-"):
            published.wait(1)
        look(self, missing, name)

    monkeypatch.setattr(Meeting, "wait_until_seen", late)
    spec: dict[str, Any] = {
        "sources": [{"uri": str(tmp_path / "web")}],
        "shuffle": True,
        "parallelism": {"nodes": 2, "processesPerNode": 1},
        "failurePolicy": {"hangTimeoutSeconds": 60},
    }
    other = threading.Thread(target=lambda: corpora.run(tmp_path, node=1, **spec))
    other.start()
    made = corpora.run(tmp_path, node=0, **spec)
    published.set()
    other.join()
    assert len(made.rows()) == 4 * 30


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_first_makes_again_what_was_lost_with_it_while_the_others_have_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shuffle: bool
) -> None:
    """It dies with the files of all on their way into the output; of the other machine nothing is left but what it had made."""
    monkeypatch.setattr(shares, "SHARE_BYTES", 2000)
    for number in range(4):
        corpora.write_lines(tmp_path / "web" / f"{number}.jsonl", [f"第{number}页{line}行" * 9 for line in range(30)])
    spec = {"sources": [{"uri": str(tmp_path / "web")}], "shuffle": shuffle}
    whole = corpora.run(tmp_path, "whole", **spec)
    shutil.rmtree(tmp_path / "cache")
    pair = {**spec, "parallelism": {"nodes": 2, "processesPerNode": 1}, "failurePolicy": {"hangTimeoutSeconds": 60}}
    others = threading.Thread(target=lambda: corpora.run(tmp_path, node=1, **pair))
    others.start()
    with pytest.raises(corpora.Lost):
        corpora.run(tmp_path, node=0, dies=True, **pair)
    others.join()
    again = corpora.run(tmp_path, node=0, **pair)
    assert again.rows() == whole.rows()
    assert again.report == whole.report
    assert len(again.rows()) == 4 * 30
    made = [line for line in again.said if line.endswith("in 1 process")]
    assert made, "what had gone with it is made again"
