"""Checkpoints: only whole ones are gone on from, and only by the job and the run that may."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from alpaca_operator.api.contract import Checkpoint
from workloads.errors import Superseded
from workloads.storage.checkpoints import Checkpoints, Run
from workloads.storage.hashing import HashCache


class Job:
    """Runs of one job that share a folder of checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "poet.checkpoints"
        self.said: list[str] = []
        self.complete: list[Checkpoint] = []

    def run(self, run_id: str, spec_digest: str = "sha256:a", *, jobset: str = "", attempt: int = 0) -> Checkpoints:
        """A new run, which is the newest from now on."""
        this = Run(
            run_id=run_id,
            job="SFTJob poet",
            spec_digest=spec_digest,
            training_digest=spec_digest,
            started_at="2026-01-01T00:00:00Z",
            jobset=jobset,
            attempt=attempt,
        )
        run = Checkpoints(
            SimpleNamespace(uri="pvc://models/poet", checkpoints=self.folder),
            this,
            HashCache(self.folder.parent / "digests.json"),
            log=self.said.append,
            on_complete=self.complete.append,
        )
        run.acquire()
        return run

    @property
    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.glob("run-*/*"))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def save(run: Checkpoints, *steps: int) -> None:
    for step in steps:
        with run.write(step) as folder:
            (folder / "model.safetensors").write_text(f"weights {step}")
            (folder / "rng").mkdir()
            (folder / "rng" / "state").write_text("random")


def test_the_newest_is_that_of_the_highest_step_over_all_runs(job: Job) -> None:
    save(job.run("a"), 9, 10)
    save(job.run("b"), 8)

    newest = job.run("c").newest()

    assert newest == job.folder / "run-a" / "checkpoint-10"
    assert (newest / "model.safetensors").read_text() == "weights 10"
    assert job.complete[-1] == Checkpoint(uri="pvc://models/poet.checkpoints/run-a/checkpoint-10", step=10)
    assert job.said == []


def test_without_one_there_is_none(job: Job) -> None:
    assert job.run("a").newest() is None


def cut(folder: Path) -> None:
    (folder / "model.safetensors").write_text("wei")


def lose(folder: Path) -> None:
    (folder / "rng" / "state").unlink()


def rot(folder: Path) -> None:
    (folder / "model.safetensors").write_text("WEIGHTS 2"[: len("weights 2")])


def unmark(folder: Path) -> None:
    (folder / "checkpoint.json").unlink()


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        pytest.param(
            cut,
            "checkpoint run-a/checkpoint-2 is damaged (model.safetensors has 3 bytes instead of 9): going back to the one before",
            id="cut short",
        ),
        pytest.param(
            lose,
            "checkpoint run-a/checkpoint-2 is damaged (rng/state is missing): going back to the one before",
            id="a file lost",
        ),
        pytest.param(
            rot,
            "checkpoint run-a/checkpoint-2 is damaged (the content of model.safetensors has changed): going back to the one before",
            id="changed without a trace",
        ),
        pytest.param(
            unmark,
            "checkpoint run-a/checkpoint-2 has no readable checkpoint.json: it is passed over",
            id="without its marker",
        ),
    ],
)
def test_a_damaged_one_is_passed_over_with_a_word(job: Job, harm: Callable[[Path], None], word: str) -> None:
    save(job.run("a"), 1, 2)
    harm(job.folder / "run-a" / "checkpoint-2")

    assert job.run("b").newest() == job.folder / "run-a" / "checkpoint-1"
    assert job.said == [word]


def test_those_of_other_settings_are_not_taken(job: Job) -> None:
    save(job.run("a", "sha256:other"), 1, 2)

    assert job.run("b").newest() is None
    assert job.said == [
        f"2 checkpoint(s) in {job.folder} were made with other settings or inputs: starting from the beginning "
        "(they take 0.0 MiB, and are removed when the output is published)"
    ]


def test_those_that_were_trained_on_other_rows_are_not_taken(job: Job) -> None:
    """Those of a version that knew nothing of rows among them."""
    save(job.run("a"), 9)
    for run, rows in [("b", "sha256:others"), ("c", "sha256:these")]:
        checkpoints = job.run(run)
        checkpoints.trained_on(rows)
        assert checkpoints.newest() is None
        save(checkpoints, 1)
    again = job.run("d")
    again.trained_on("sha256:these")
    again.prune(1)
    assert again.newest() == job.folder / "run-c" / "checkpoint-1"
    assert job.run("e").newest() == job.folder / "run-a" / "checkpoint-9", (
        "where all rows are trained on nothing has changed"
    )


def test_a_write_that_fails_leaves_nothing(job: Job) -> None:
    run = job.run("a")
    save(run, 1)

    def fail() -> None:
        with run.write(2) as folder:
            (folder / "model.safetensors").write_text("half")
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        fail()
    assert job.names == ["run-a/checkpoint-1"]


def test_a_part_that_finds_no_room_says_so(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.save names no reason, in whichever of several processes."""

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = job.run("a")
    run.partial(3).mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as told, run.write_part(3):
        raise RuntimeError("unexpected pos 64 vs 0")
    assert told.value.filename == str(run.partial(3))


def test_a_step_can_be_saved_again(job: Job) -> None:
    run = job.run("a")
    save(run, 1)
    with run.write(1) as folder:
        (folder / "model.safetensors").write_text("again")

    newest = run.newest()
    assert newest is not None
    assert (newest / "model.safetensors").read_text() == "again"
    assert job.names == ["run-a/checkpoint-1"]


def test_the_newest_few_are_kept_over_all_runs_and_the_best_one(job: Job) -> None:
    save(job.run("a"), 1, 2, 3)
    run = job.run("b")
    save(run, 4)

    run.prune(2, protect=[job.folder / "run-a" / "checkpoint-1"])

    assert job.names == ["run-a/checkpoint-1", "run-a/checkpoint-3", "run-b/checkpoint-4"]


def test_what_a_killed_run_was_writing_is_tidied_away(job: Job) -> None:
    save(job.run("a"), 1)
    (job.folder / "run-a" / ".checkpoint-2.partial").mkdir()

    run = job.run("b")
    run.tidy()

    assert run.newest() == job.folder / "run-a" / "checkpoint-1"
    assert job.names == ["run-a/checkpoint-1"]


def test_an_overtaken_run_writes_and_removes_nothing(job: Job) -> None:
    lost = job.run("a")
    save(lost, 1, 2)
    save(job.run("b"), 3)

    message = (
        r"another run took over at 2026-01-01T00:00:00Z \(run b of SFTJob poet\): this one ends without publishing"
    )
    with pytest.raises(Superseded, match=message):
        save(lost, 4)
    with pytest.raises(Superseded, match=message):
        lost.prune(1)
    assert job.names == ["run-a/checkpoint-1", "run-a/checkpoint-2", "run-b/checkpoint-3"]


TOOK_OVER = r"another run took over at 2026-01-01T00:00:00Z \(run {} of SFTJob poet\)"


def test_a_run_that_was_overtaken_and_starts_again_is_still_the_older(job: Job) -> None:
    for run_id in ("a", "b", "c"):
        save(job.run(run_id), 1)
    newest = job.run("c")
    before = (job.folder / "run-id").read_text()

    for lost in ("a", "b"):
        message = TOOK_OVER.format("c") + f": run {lost} is of before it, and ends without writing anything"
        with pytest.raises(Superseded, match=message):
            job.run(lost)

    assert (job.folder / "run-id").read_text() == before
    newest.check()


def test_of_one_set_the_younger_attempt_is_the_newer_also_where_the_older_starts_late(job: Job) -> None:
    newest = job.run("s-2-x", jobset="s", attempt=2)
    message = TOOK_OVER.format("s-2-x") + (
        ", in attempt 2 of the JobSet: a pod of attempt 1 ends without writing anything"
    )
    with pytest.raises(Superseded, match=message):
        job.run("s-1-x", jobset="s", attempt=1)
    newest.check()

    again = job.run("s-2-y", jobset="s", attempt=2)
    with pytest.raises(Superseded, match=TOOK_OVER.format("s-2-y")):
        newest.check()
    another = job.run("t-0-x", jobset="t", attempt=0)
    with pytest.raises(Superseded, match=TOOK_OVER.format("t-0-x")):
        again.check()
    another.check()


def test_a_run_that_is_overtaken_while_it_writes_leaves_nothing(job: Job) -> None:
    lost = job.run("a")

    def overtaken() -> None:
        with lost.write(1) as folder:
            (folder / "model.safetensors").write_text("weights")
            job.run("b")

    with pytest.raises(Superseded):
        overtaken()
    assert job.names == []


def test_after_publishing_nothing_is_left_and_a_lost_run_knows(job: Job) -> None:
    lost = job.run("a")
    save(lost, 1)
    job.run("b").discard_all()

    assert not job.folder.exists()
    with pytest.raises(Superseded, match="was published, or its checkpoints removed, by another run"):
        save(lost, 2)
    assert not job.folder.exists()
