"""A chain of jobs in one process: reused where nothing changed, stopped at the first failure."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from alpaca_operator.api import Resource, contract
from workloads.errors import Interrupted, OutputExists, WorkloadError
from workloads.manifest.chain import Key, Step
from workloads.runtime import exits, launcher, runtime
from workloads.storage import artifact, output, sources
from workloads.storage.hashing import HashCache
from workloads.storage.output import output_place
from workloads.system.environment import Environment
from workloads.system.signals import Stop


def foresee(chain: Iterable[Step], environment: Environment) -> None:
    """Sets each step's outcome to what running it would give: ``Reused``, or ``to run``. Nothing is written or downloaded."""
    pending: set[Key] = set()
    known = HashCache(environment.cache / "digests.json", lambda: None)
    for step in chain:
        reads_new = any(key in pending for key in step.after)
        try:
            done = None if reads_new else _done(step.job, environment, known)
        except WorkloadError as error:
            error.args = (f"{step.title}: {error}",)  # no line above it says whose it is
            raise
        if done is None:
            step.outcome = "to run"
            pending.add(step.key)
        else:
            step.outcome, step.metrics = "Reused", dict(done.metrics)


def _done(job: Resource, environment: Environment, known: HashCache) -> artifact.Publisher | None:
    """What has found the result of the job in its place, if that is there."""
    try:
        inputs = sources.collect(job.spec, environment, known, lambda: None)
        place = output.output_place(job.spec.output.uri, inputs, environment, lambda: None)
        publisher = artifact.Publisher(job, inputs, place, known, launcher.processes(job, environment))
        publisher.look()
    except OutputExists:
        return None
    return publisher if publisher.published is not None else None


def run(chain: Sequence[Step]) -> int:
    """Every step in order, up to the first that fails, or until a signal comes; the exit code."""
    stop = Stop(0)
    with stop.listening():
        for number, step in enumerate(chain, start=1):
            print(f"[{number}/{len(chain)}] {step.title} → {step.job.spec.output.uri}", file=sys.stderr, flush=True)
            if stop.requested:
                step.outcome = "Interrupted"
                return exits.exit_with(Interrupted(f"stopped before {step.title}: run again to go on"), os.environ)
            began = time.monotonic()
            ending = runtime.end_of(_replacing_its_own(step.job), _workload(step.job), stop)
            step.seconds = time.monotonic() - began
            step.metrics = ending.metrics or {}
            gc.collect()  # the next step needs the memory of this one's model
            if ending.exit_code != contract.ExitCode.OK:
                stopped = ending.exit_code == contract.ExitCode.INTERRUPTED
                step.outcome = "Interrupted" if stopped else "Failed"
                return ending.exit_code
            step.outcome = "Reused" if ending.output and ending.output.reused else "Succeeded"
    return 0


def _workload(job: Resource) -> Callable[[Resource, runtime.Runtime], runtime.Metrics]:
    run_job: Callable[[Resource, runtime.Runtime], runtime.Metrics] = importlib.import_module(
        f"workloads.{job.workload}"
    ).run
    return run_job


def _replacing_its_own(job: Resource) -> Resource:
    """A step that was changed replaces what it made before: in a chain the name stays and the content follows the file. What another job
    made stays where it is, and the step is refused. The old output is there until the new one is whole."""
    environment = Environment.read(os.environ)
    try:
        place = output_place(job.spec.output.uri, sources.Inputs(), environment, lambda: None)
        found = place.artifact()
    except WorkloadError:
        return job  # the run says so itself, with all it knows
    if found is None or found.job != {"kind": job.kind, "name": job.metadata.name}:
        return job
    output = job.spec.output.model_copy(update={"overwrite": True})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"output": output})})


def table(chain: Sequence[Step]) -> str:
    """The steps with what became of each, for the end of a run and for ``--dry-run``."""
    rows = [("STEP", "RESULT", "TIME", "OUTPUT", "METRICS")]
    for step in chain:
        took = f"{step.seconds:.1f} s" if step.seconds else ""
        rows.append((step.title, step.outcome, took, step.job.spec.output.uri, _metrics_line(step.metrics)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]]).rstrip()
        for row in rows
    )


SHOWN_METRICS = {
    "charactersPerToken": "charactersPerTokenBase",
    "finalLoss": None,
    "evalLoss": None,
    "perplexity": "perplexityBefore",
    "bitsPerByte": "bitsPerByteBefore",
    "mergeLogitDifference": None,
}
"""The metrics that fit on a line, in this order, each with the one that says what it was before."""


COMPARED = ("bitsPerByte", "stopRate")
"""Of a comparison of models, the first of these that it has is told."""


def _metrics_line(metrics: dict[str, float | None]) -> str:
    told = []
    for name, earlier in SHOWN_METRICS.items():
        before, after = metrics.get(earlier or ""), metrics.get(name)
        if after is not None:
            told.append(
                f"{name} {_number(after)}" if before is None else f"{name} {_number(before)} → {_number(after)}"
            )
    for name in COMPARED:
        by_model = {key.removesuffix(f"/{name}"): value for key, value in metrics.items() if key.endswith(f"/{name}")}
        if by_model:
            told.append(f"{name} of " + ", ".join(f"{model} {_number(value)}" for model, value in by_model.items()))
            break
    return ", ".join(told)


def _number(value: float | None) -> str:
    """Four digits, and never an exponent of a number that is easily read."""
    if value is None:
        return "none"
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e9 else f"{value:.4g}"
