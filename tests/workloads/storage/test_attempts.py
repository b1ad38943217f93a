"""What a job has done over all its runs, and how much of that was not lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from alpaca_operator.api.contract import Attempt
from workloads.storage import attempts
from workloads.storage.attempts import Attempts, goodput
from workloads.storage.checkpoints import Run

LONG_AGO = "2026-01-01T00:00:00.000000Z"


def a_run(folder: Path, number: int, digest: str = "sha256:a", said: list[str] | None = None) -> Attempts:
    """The ``number``-th of a job, an hour after the one before."""
    run = Run(run_id=f"r{number}", training_digest=digest, started_at=f"2026-01-01T0{number}:00:00.000000Z")
    return Attempts(folder, run, processes=2, log=(said if said is not None else []).append)


def made(one: Attempts, first: int, last: int) -> None:
    one.train_from(first)
    for step in range(first + 1, last + 1):
        one.made(step)


def test_the_steps_of_killed_runs_are_known(tmp_path: Path) -> None:
    made(a_run(tmp_path, 1), 0, 7)
    made(a_run(tmp_path, 2), 5, 12)
    third = a_run(tmp_path, 3)
    made(third, 10, 20)
    found = third.all()
    assert found is not None
    assert [(one.run_id, one.processes, one.first_step, one.last_step) for one in found] == [
        ("r1", 2, 0, 7),
        ("r2", 2, 5, 12),
        ("r3", 2, 10, 20),
    ]


def test_runs_of_other_settings_are_not_of_the_job(tmp_path: Path) -> None:
    made(a_run(tmp_path, 1, "sha256:b"), 0, 7)
    second = a_run(tmp_path, 2)
    made(second, 0, 3)
    assert [one.run_id for one in second.all() or ()] == ["r2"]


def test_a_run_that_never_came_to_a_step_has_begun_all_the_same(tmp_path: Path) -> None:
    a_run(tmp_path, 1).begin()
    second = a_run(tmp_path, 2)
    made(second, 0, 4)
    found = second.all()
    assert [one.last_step for one in found or ()] == [0, 4]
    told = goodput(found, 4, 60.0)
    assert told is not None
    assert told.steps == 1


def test_a_record_that_cannot_be_read_leaves_goodput_unknown(tmp_path: Path) -> None:
    made(a_run(tmp_path, 1), 0, 7)
    (record,) = tmp_path.glob("run-r1/attempt-*.json")
    record.write_text(record.read_text()[:40])
    second = a_run(tmp_path, 2)
    made(second, 5, 9)
    assert second.all() is None
    assert goodput(second.all(), 9, 1.0) is None


def test_a_full_disk_ends_the_telling_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    run = a_run(tmp_path, 1, said=said)
    made(run, 0, 2)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", full)
        run.made(3)
    run.made(4)
    assert len(said) == 1
    assert said[0].endswith("the steps made cannot be noted (No space left on device), and goodput is not told")
    next_run = a_run(tmp_path, 2)
    made(next_run, 4, 6)
    assert goodput(next_run.all(), 6, 1.0) is None, "four steps of it are nobody's"


def attempt(first: int, last: int) -> Attempt:
    return Attempt(run_id="r", started_at=LONG_AGO, processes=1, first_step=first, last_step=last)


@pytest.mark.parametrize(
    ("known", "step", "share"),
    [
        pytest.param([(0, 8)], 8, 1.0, id="nothing lost"),
        pytest.param([(0, 7), (5, 10)], 10, 10 / 12, id="two steps lost"),
        pytest.param([(0, 7), (0, 10)], 10, 10 / 17, id="no checkpoint there yet"),
        pytest.param([(0, 7), (5, 5), (5, 6)], 6, 6 / 8, id="a run without a step"),
        pytest.param([(5, 10)], 10, None, id="who made the first five"),
        pytest.param([(0, 4), (6, 10)], 10, None, id="who made the two between"),
        pytest.param([], 3, None, id="nothing known"),
        pytest.param([(0, 0)], 0, None, id="nothing made"),
    ],
)
def test_the_share_of_steps_that_count(known: list[tuple[int, int]], step: int, share: float | None) -> None:
    told = goodput([attempt(first, last) for first, last in known], step, None)
    assert (told and told.steps) == (share and pytest.approx(share, abs=1e-6))


def test_the_share_of_time_is_of_all_since_the_first_run_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "now", lambda: "2026-01-01T00:01:40.000000Z")
    told = goodput([attempt(0, 5), attempt(5, 10)], 10, 25.0)
    assert told is not None
    assert told.time == 0.25
    unknown = goodput([attempt(0, 5)], 5, None)
    assert unknown is not None
    assert unknown.time is None
