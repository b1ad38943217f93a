"""Raw text made into a corpus: ``python -m workloads.dataset FILE``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from alpaca_operator.api.contract import ENV_NODE
from alpaca_operator.api.dataset import DatasetJob
from workloads.data.bad_rows import BadRows
from workloads.errors import DataError, SpecError
from workloads.runtime import command
from workloads.system import cgroup

if TYPE_CHECKING:
    from workloads.curation.nodes import Node
    from workloads.curation.result import Corpus
    from workloads.runtime.runtime import Metrics, Runtime


def run(job: DatasetJob, runtime: Runtime) -> Metrics:
    """Look at all files, make the stages, publish with the report. What can be refused is refused before the first document is read."""
    from workloads.curation import crew

    crew.prepare(job.spec.parallelism.processes_per_node or cgroup.cores())  # beside the imports that follow
    from workloads.curation import cleaning, frequent, languages, make, report, shares
    from workloads.curation.nodes import Meeting
    from workloads.curation.stages import Work
    from workloads.curation.uses import Uses

    spec = job.spec
    rules = cleaning.all_rules(spec, runtime.inputs)
    languages.must_be_known(spec.filters.language)
    tokens = frequent.tokens_by(Path(runtime.inputs["tokenizer"].path)) if spec.tokenizer is not None else None
    sources = shares.origins(spec.sources, spec.content)
    earlier = shares.earlier(spec.deduplicate.against, spec.content)
    dealt, chosen = shares.all_files(sources, runtime.inputs)
    compared, more_chosen = shares.all_files([*sources, *earlier], runtime.inputs, len(sources))
    chosen += more_chosen
    for line in (line for selection in chosen for line in selection.lines()):
        runtime.progress.log(line)
    work = Work(
        spec=spec,
        inputs=runtime.inputs,
        origins=sources,
        earlier=earlier,
        shares=[*dealt, *compared],
        own=len(dealt),
        rules=rules,
        bad_rows=BadRows.of(spec).limit,
        home=make.home(runtime),
    )
    patience = job.spec.failure_policy.hang_timeout_seconds
    meeting = Meeting(_node(job, runtime), work.home, patience, partial(_wait, runtime), runtime.progress.log)
    uses = Uses(work.home, job, runtime.progress.heartbeat) if runtime.cache_is_kept else None
    with meeting.joined():
        corpus = make.corpus(work, runtime, meeting, uses)
        if corpus is None:
            return {}
        for line in corpus.lines():
            runtime.progress.log(line)
        _must_hold_something(corpus)
        corpus.note_left_out(chosen)
        metrics = corpus.metrics()
        with runtime.output("Dataset", metrics) as folder:
            corpus.move_to(folder)
            report.write(job, corpus, folder, tokens)
        if uses is not None:
            uses.settle(runtime.progress.log)
    return metrics


def _node(job: DatasetJob, runtime: Runtime) -> Node:
    """One of as many as were asked for, where this machine was told which; else it makes all, and the corpus is the same."""
    from workloads.curation.nodes import ALONE, Node

    asked, index = job.spec.parallelism.nodes, runtime.distributed.rank
    if asked == 1 or runtime.group is None:
        return ALONE
    if not runtime.cache_is_kept and job.spec.output.uri.startswith("s3://"):
        raise SpecError(
            f"parallelism.nodes is {asked}, and output.uri is {job.spec.output.uri}: nodes meet on a volume that all of them mount: set "
            "cache.claimName to one (ReadWriteMany), or parallelism.nodes to 1"
        )
    if index >= asked:
        raise SpecError(
            f"{ENV_NODE} is {index}, and spec.parallelism.nodes is {asked}: set it to 0 to {asked - 1}, or ask for more nodes"
        )
    return Node(index, asked, runtime.group)


def _wait(runtime: Runtime) -> None:
    runtime.progress.heartbeat()
    runtime.stop.check()


def _must_hold_something(corpus: Corpus) -> None:
    if corpus.kept.documents:
        return
    if not corpus.read.documents:
        raise DataError(
            "sources: no document in any of their files: name other files, or set format where they are read as what they are not"
        )
    why = ", ".join(f"{amount.documents:,} {reason}" for reason, amount in corpus.dropped().items())
    raise DataError(
        f"sources: no document is left of {corpus.read.documents:,} ({why}): loosen filters, or look at the rules of clean"
    )


if __name__ == "__main__":
    sys.exit(command.main(DatasetJob, run))
