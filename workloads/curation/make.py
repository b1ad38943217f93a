"""The stages of a corpus made one after the other, by as many processes as may work; what is there already is found."""

from __future__ import annotations

import resource
from pathlib import Path

from alpaca_operator.api.dataset import DatasetJob
from workloads.curation import held_out, reading, stages, steps
from workloads.curation.choice import CHOICE, Chooser
from workloads.curation.count import Count
from workloads.curation.crew import Crew
from workloads.curation.executor import Stage
from workloads.curation.ledger import READ
from workloads.curation.nodes import Meeting
from workloads.curation.result import Corpus
from workloads.curation.stages import Work
from workloads.curation.uses import Uses
from workloads.errors import WorkloadError
from workloads.runtime.runtime import Runtime
from workloads.system import cgroup

HOME = "curation"


def home(runtime: Runtime) -> Path:
    """Where stages are kept: the cache, where it outlives this run; else beside the output, until that is published."""
    return runtime.cache / HOME if runtime.cache_is_kept else runtime.checkpoints.own.parent / HOME


FILES = 512
"""That are open at once, besides one for each share."""


def _may_open(files: int) -> None:
    """Comparisons read the numbers of all shares side by side. Raises WorkloadError where the system does not bear that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < files:
        raise WorkloadError(
            f"{files:,} files would be open at once, and a process may have {hard:,}: raise the limit (ulimit -n), or make the corpus in parts"
        )
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


def corpus(work: Work, runtime: Runtime, meeting: Meeting, uses: Uses | None = None) -> Corpus | None:
    """Everything up to the files of the output; None on a machine that has made its part, of which the first takes all together.

    ``uses`` hears of each stage before it is looked at. Raises what reading raises, and Interrupted after the shares at hand are lost: what was complete is gone on from.
    """
    job = runtime.job
    assert isinstance(job, DatasetJob)
    processes = job.spec.parallelism.processes_per_node or cgroup.cores()
    _may_open(len(work.shares) + FILES)
    with (
        runtime.stop.interruptible("stopped: run again to go on after the shares that are complete"),
        Crew(processes) as crew,
    ):
        maker = _Maker(work, runtime, meeting, crew, processes, uses)
        maker.look_at_held_out()
        read = stages.reading(work)
        maker.make("Reading", read)
        found = steps.ledgers(read.folder, read.tasks)
        bad_rows = steps.bad_rows_of(found)
        if work.earlier:
            earlier = stages.reading_earlier(work)
            maker.make("Reading", earlier)
            compared = steps.ledgers(earlier.folder, earlier.tasks)
            bad_rows += steps.bad_rows_of(compared)
            for sentence, (count, where) in compared.notes.items():  # nothing else of them is counted
                found.note(sentence, where, count)
            runtime.progress.log(f"compared with {compared.total(READ).documents:,} documents of earlier corpora")
            read = stages.joining(work, read, earlier)
            maker.make("Reading", read)
        reading.must_fit(bad_rows, work.bad_rows)
        exact = stages.exact(work, read) if job.spec.deduplicate.exact != "None" else None
        if exact is not None:
            maker.make("Comparing", exact)
        if exact is not None and job.spec.deduplicate.exact == "Paragraph":
            paragraphs = stages.Paragraphs(work, read, exact)
            for stage in paragraphs.stages():
                maker.make("Comparing", stage)
            read = paragraphs.removing
            found.merge(steps.ledgers(read.folder, work.own))
            exact = stages.exact(work, read)  # without these lines, others are equal
            maker.make("Comparing", exact)
        asked = job.spec.deduplicate.near
        near = stages.Near(work, read, exact, asked) if asked is not None else None
        for stage in near.stages() if near is not None else ():
            maker.make("Comparing", stage)
        choosing = stages.choosing(work, read, exact, near)
        maker.make("Choosing", choosing)
        written = stages.writing(work, read, exact, near, choosing)
        for stage in written:
            maker.make("Writing", stage, is_last=stage is written[-1])
        if not meeting.node.is_first:
            return None
    found.merge(steps.ledgers(written[0].folder, written[0].tasks))
    weights = Chooser(choosing.folder / CHOICE, job.spec.seed).weights
    return Corpus(work, found, [stage.folder for stage in written], weights, near.folder if near else None)


class _Maker:
    """Makes stages, this machine's part of each, and tells how far all are."""

    def __init__(
        self,
        work: Work,
        runtime: Runtime,
        meeting: Meeting,
        crew: Crew,
        processes: int,
        uses: Uses | None,
    ) -> None:
        self._uses = uses
        self._work, self._meeting, self._crew, self._processes = work, meeting, crew, processes
        self._progress, self._stop = runtime.progress, runtime.stop
        self._count = Count(work)

    def look_at_held_out(self) -> None:
        """Rows of evaluation sets become numbers, once."""
        asked, file = self._work.spec.decontaminate, self._work.held_out
        if asked is None or file is None:
            return
        self._progress.update(stage="Preparing")
        self._note(file)
        if self._meeting.node.is_first and not file.is_file():
            rows, short, not_read = held_out.save(asked, self._work.inputs, file)
            for line in not_read:
                self._progress.log(f"decontaminating: {line}")
            without = f"; {short:,} are too short to be looked for" if short else ""
            self._progress.log(f"decontaminating: {rows:,} texts of evaluation sets{without}")
        if self._meeting.node.count > 1:
            self._meeting.wait(file.name, 1)
            self._meeting.wait_until_seen(lambda: [] if file.is_file() else [0], file.name)

    def make(self, name: str, stage: Stage, *, is_last: bool = False) -> None:
        """``is_last``: nothing follows for which a machine would need what others make; the first waits for all."""
        progress, node = self._progress, self._meeting.node
        self._note(stage.folder)
        self._count.begin(stage)
        progress.update(stage=name, step=0, total_steps=self._count.total)
        stage.folder.mkdir(parents=True, exist_ok=True)
        self._make(stage, stage.missing(progress.log, mine := node.part(stage.tasks)), len(mine))
        if is_last and not node.is_first:
            self._meeting.leave(stage.folder.name)
        elif node.count > 1:
            self._meet(stage, is_last=is_last)
        self._count.look(at_once=True)
        self._tell()

    def _note(self, path: Path) -> None:
        if self._uses is not None and self._meeting.node.is_first:
            self._uses.note(path)

    def _meet(self, stage: Stage, *, is_last: bool) -> None:
        """Wait for the parts of the others. A machine that has left took none of its files with it, but a run that was killed while it published
        may have: the first makes what is gone."""
        name, node = stage.folder.name, self._meeting.node
        self._meeting.wait(name, stage.tasks, self._tell, is_last=is_last)
        if node.is_first:
            gone = [
                rank for rank in range(stage.tasks) if stage.unseen(rank) and self._meeting.has_left(rank % node.count)
            ]
            self._make(stage, gone, stage.tasks)
        if not is_last:
            self._meeting.wait_until_seen(lambda: filter(stage.unseen, range(stage.tasks)), name)

    def _make(self, stage: Stage, todo: list[int], of: int) -> None:
        progress = self._progress
        if len(todo) < of:
            progress.log(f"{stage.name}: found {of - len(todo)} of {of} shares made in {stage.folder}")
        if todo:
            helpers = min(self._processes, len(todo))
            progress.log(f"{stage.name}: {len(todo)} shares in {helpers} {'process' if helpers == 1 else 'processes'}")
            self._crew.make(stage, todo, self._hear, self._stop.check)

    def _hear(self, rank: int, documents: int) -> None:
        self._count.hear(rank, documents)
        self._tell()

    def _tell(self) -> None:
        self._count.look()
        self._progress.update(step=self._count.step, total_steps=self._count.total)
