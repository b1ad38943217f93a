"""Raw text made into a corpus: ``python -m workloads.dataset FILE``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from alpaca_operator.api.dataset import DatasetJob
from workloads.data.bad_rows import BadRows
from workloads.errors import DataError
from workloads.runtime import command

if TYPE_CHECKING:
    from workloads.curation.result import Corpus
    from workloads.runtime.runtime import Metrics, Runtime


def run(job: DatasetJob, runtime: Runtime) -> Metrics:
    """Look at all files, make the stages, publish with the report. What can be refused is refused before the first document is read."""
    from workloads.curation import cleaning, languages, make, report, shares
    from workloads.curation.stages import Work

    spec = job.spec
    rules = cleaning.all_rules(spec, runtime.inputs)
    languages.must_be_known(spec.filters.language)
    sources = shares.origins(spec.sources, spec.content)
    earlier = shares.earlier(spec.deduplicate.against, spec.content)
    dealt, left_out = shares.all_files(sources, runtime.inputs)
    compared, more_left_out = shares.all_files([*sources, *earlier], runtime.inputs, len(sources))
    for line in [*left_out, *more_left_out]:
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
    corpus = make.corpus(work, runtime)
    for line in corpus.lines():
        runtime.progress.log(line)
    _must_hold_something(corpus)
    metrics = corpus.metrics()
    with runtime.output("Dataset", metrics) as folder:
        corpus.move_to(folder)
        report.write(job, corpus, folder)
    return metrics


def _must_hold_something(corpus: Corpus) -> None:
    if corpus.kept.documents:
        return
    why = ", ".join(f"{amount.documents:,} {reason}" for reason, amount in corpus.dropped().items())
    raise DataError(
        f"sources: no document is left of {corpus.read.documents:,} ({why}): loosen filters, or look at the rules of clean"
    )


if __name__ == "__main__":
    sys.exit(command.main(DatasetJob, run))
