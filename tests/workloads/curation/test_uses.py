"""Stages of a cache that nobody refers to any more go, and no others."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api import DatasetJob
from tests.workloads.curation.corpora import make
from workloads.curation import uses
from workloads.curation.uses import Uses, prune

DAY = 86400.0
TEXTS = {"诗": [f"第{number}首，白日依山尽。" for number in range(30)]}


def stages(folder: Path) -> set[str]:
    """What lies in the cache, by the names of stages."""
    return {path.name.rpartition("-")[0] for path in (folder / "cache" / "curation").iterdir()} - {""}


def age(folder: Path, days: float) -> None:
    """As if nobody had touched anything for so long; notes of jobs stay as they are."""
    home = folder / "cache" / "curation"
    for path in home.rglob("*"):
        if uses.FOLDER not in path.parts:
            os.utime(path, (time.time() - days * DAY,) * 2)


def job(name: str = "a", output: str = "out") -> DatasetJob:
    spec = {"sources": [{"uri": "a"}], "output": {"uri": output}}
    return DatasetJob.model_validate({"kind": "DatasetJob", "metadata": {"name": name}, "spec": spec})


def stage(home: Path, name: str, days: float = 0) -> Path:
    folder = home / f"{name}-{'0' * 24}"
    (folder / "completions").mkdir(parents=True)
    for path in (folder / "completions", folder):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return folder


def test_a_job_keeps_the_stages_of_its_last_run_and_another_one_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, TEXTS, "first")
    assert stages(tmp_path) == {"reading", "exact", "choosing"}
    age(tmp_path, 2)
    made = make(tmp_path, TEXTS, "second", split={"validationDocuments": 3})
    assert any(line.startswith("reading: found 1 of 1") for line in made.said), "another job reads nothing again"
    assert len(list((tmp_path / "cache" / "curation").glob("choosing-*"))) == 2, "each job has its own"
    # The second job again, with another spec: what only its spec before referred to goes.
    (tmp_path / "second").rename(tmp_path / "kept")
    age(tmp_path, 2)
    made = make(tmp_path, TEXTS, "second", filters={"minCharacters": 2})
    assert [line for line in made.said if line.startswith("removed ")] == [
        f"removed 1 stages from {tmp_path / 'cache' / 'curation'} that no job refers to any more"
    ]
    assert len(list((tmp_path / "cache" / "curation").glob("choosing-*"))) == 2
    assert len(list((tmp_path / "cache" / "curation").glob("reading-*"))) == 2, "the first job still refers to its own"


@pytest.mark.parametrize(
    ("days", "noted_days", "goes"),
    [
        pytest.param(2, None, True, id="nobody's, and old"),
        pytest.param(0.5, None, False, id="used within a day"),
        pytest.param(200, 29, False, id="a job refers to it"),
        pytest.param(200, 31, True, id="a job that did not run for a month"),
    ],
)
def test_what_goes(tmp_path: Path, days: float, noted_days: float | None, goes: bool) -> None:
    old = stage(tmp_path, "reading", days)
    (tmp_path / uses.FOLDER).mkdir()
    if noted_days is not None:
        Uses(tmp_path, job(), lambda: None).note(old)
        for path in (*(tmp_path / uses.FOLDER).glob("*.json"), old):
            os.utime(path, (time.time() - noted_days * DAY,) * 2)
    assert prune(tmp_path, time.time()) == ([old.name] if goes else [])
    assert old.exists() != goes


def test_a_run_that_goes_on_keeps_what_it_has_noted_and_what_its_job_had(tmp_path: Path) -> None:
    """It may be killed, and gone on with under the spec of before."""
    first, second = stage(tmp_path, "reading"), stage(tmp_path, "exact")
    before = Uses(tmp_path, job(), lambda: None)
    before.note(first)
    running = Uses(tmp_path, job(), lambda: None)
    running.note(second)
    for folder in (first, second):
        os.utime(folder, (time.time() - 9 * DAY,) * 2)
        os.utime(folder / "completions", (time.time() - 9 * DAY,) * 2)
    assert prune(tmp_path, time.time()) == []
    running.settle(lambda _: None)
    assert (first.exists(), second.exists()) == (False, True)


def test_what_is_no_stage_is_left_alone(tmp_path: Path) -> None:
    others: list[Any] = [tmp_path / "my-notes", tmp_path / "nodes-uid", tmp_path / "reading-short"]
    for path in others:
        path.mkdir()
        os.utime(path, (0, 0))
    (tmp_path / uses.FOLDER).mkdir()
    assert prune(tmp_path, time.time()) == []
    assert all(path.exists() for path in others)


def test_where_machines_met_that_are_gone_goes_too(tmp_path: Path) -> None:
    """A run that never published leaves it; one that lives shows that it does."""
    for name, days in (("gone", 3.0), ("lives", 0.0)):
        folder = tmp_path / f"nodes-{name}"
        folder.mkdir()
        (folder / "alive.1").touch()
        os.utime(folder / "alive.1", (time.time() - days * DAY,) * 2)
        os.utime(folder, (time.time() - 3 * DAY,) * 2)
    assert prune(tmp_path, time.time()) == ["nodes-gone"]
    assert [path.name for path in tmp_path.iterdir()] == ["nodes-lives"]
