"""The stages of a corpus made one after the other, by as many processes as may work; what is there already is found."""

from __future__ import annotations

from pathlib import Path

from alpaca_operator.api.dataset import DatasetJob
from workloads.curation import held_out, reading, stages, steps
from workloads.curation.choice import CHOICE, Chooser
from workloads.curation.crew import Crew
from workloads.curation.executor import Stage
from workloads.curation.ledger import READ
from workloads.curation.result import Corpus
from workloads.curation.stages import Work
from workloads.runtime.runtime import Runtime
from workloads.system import atomic, cgroup

HOME = "curation"


def home(runtime: Runtime) -> Path:
    """Where stages are kept: the cache, where it outlives this run; else beside the output, until that is published."""
    return runtime.cache / HOME if runtime.cache_is_kept else runtime.checkpoints.own.parent / HOME


def corpus(work: Work, runtime: Runtime) -> Corpus:
    """Everything up to the files of the output. Raises what reading raises, and Interrupted after the shares at hand are lost: what was
    complete is gone on from."""
    job = runtime.job
    assert isinstance(job, DatasetJob)
    processes = job.spec.parallelism.processes_per_node or cgroup.cores()
    maker = _Maker(work, runtime, processes)
    with (
        runtime.stop.interruptible("stopped: run again to go on after the shares that are complete"),
        Crew(processes) as crew,
    ):
        maker.look_at_held_out()
        read = stages.reading(work)
        maker.make("Reading", read, crew)
        everything, found = (steps.ledgers(read.folder, tasks) for tasks in (read.tasks, work.own))
        reading.must_fit(steps.bad_rows_of(everything), work.bad_rows)
        maker.documents = everything.total(READ).documents - everything.total("dropped").documents
        exact = stages.exact(work, read) if job.spec.deduplicate.exact != "None" else None
        if exact is not None:
            maker.make("Comparing", exact, crew)
        if exact is not None and job.spec.deduplicate.exact == "Paragraph":
            paragraphs = stages.Paragraphs(work, read, exact)
            for stage in paragraphs.stages():
                maker.make("Comparing", stage, crew)
            read = paragraphs.removing
            found.merge(steps.ledgers(read.folder, work.own))
            exact = stages.exact(work, read)  # without these lines, others are equal
            maker.make("Comparing", exact, crew)
        asked = job.spec.deduplicate.near
        near = stages.Near(work, read, exact, asked) if asked is not None else None
        for stage in near.stages() if near is not None else ():
            maker.make("Comparing", stage, crew)
        choosing = stages.choosing(work, read, exact, near)
        maker.make("Choosing", choosing, crew)
        written = stages.writing(work, read, exact, near, choosing)
        for stage in written:
            maker.make("Writing", stage, crew)
    found.merge(steps.ledgers(written[0].folder, written[0].tasks))
    weights = Chooser(choosing.folder / CHOICE, job.spec.seed).weights
    return Corpus(work, found, [stage.folder for stage in written], weights, near.folder if near else None)


class _Maker:
    """Makes stages, and tells how far they are."""

    def __init__(self, work: Work, runtime: Runtime, processes: int) -> None:
        self._work, self._runtime, self._processes = work, runtime, processes
        self.documents: int | None = None
        """That a stage goes over, once known."""

    def look_at_held_out(self) -> None:
        """Rows of evaluation sets become numbers, once."""
        asked, file = self._work.spec.decontaminate, self._work.held_out
        if asked is None or file is None or file.is_file():
            return
        progress = self._runtime.progress
        progress.update(stage="Preparing")
        rows, short = held_out.save(asked, self._work.inputs, file)
        without = f"; {short:,} are too short to be looked for" if short else ""
        progress.log(f"decontaminating: {rows:,} texts of evaluation sets{without}")

    def make(self, name: str, stage: Stage, crew: Crew) -> None:
        progress = self._runtime.progress
        progress.update(stage=name, step=0, total_steps=self.documents)
        stage.folder.mkdir(parents=True, exist_ok=True)
        done = 0

        def tell(documents: int) -> None:
            nonlocal done
            done += documents
            progress.update(step=done)

        with atomic.file_lock(stage.folder, progress.heartbeat):
            todo = stage.missing(progress.log)
            if len(todo) < stage.tasks:
                progress.log(
                    f"{stage.name}: found {stage.tasks - len(todo)} of {stage.tasks} shares made in {stage.folder}"
                )
            if todo:
                helpers = min(self._processes, len(todo))
                progress.log(
                    f"{stage.name}: {len(todo)} shares in {helpers} {'process' if helpers == 1 else 'processes'}"
                )
                crew.make(stage, todo, tell, self._runtime.stop.check)
        progress.update(step=self.documents or done, total_steps=self.documents or done)
