"""A chain of jobs in one process: reused where nothing changed, stopped at the first failure."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
from collections.abc import Iterable, Sequence

from alpaca_operator.api import contract
from alpaca_operator.api.publication import publications
from alpaca_operator.api.resource import Job
from workloads.errors import Interrupted, OutputExists, WorkloadError
from workloads.manifest.chain import Key, Step
from workloads.runtime import exits, publishing, scale
from workloads.runtime.execute import Workload, execute
from workloads.runtime.runtime import HASHES
from workloads.storage import sources
from workloads.storage.artifact import Publisher
from workloads.storage.hashing import HashCache
from workloads.storage.output import output_place
from workloads.system.environment import Environment
from workloads.system.signals import Stop

SHOWN_METRICS = {
    "documentsKept": "documentsRead",
    "charactersPerToken": "charactersPerTokenBase",
    "finalLoss": None,
    "evalLoss": None,
    "perplexity": "perplexityBefore",
    "bitsPerByte": "bitsPerByteBefore",
    "mergeLogitDifference": None,
}
"""The metrics that fit on a line, in this order, each with the one that says what it was before."""

COMPARED_METRICS = ("bitsPerByte", "stopRate")
"""Of a comparison of models, the first of these that it has is shown."""


# ---- before: what a run would do ----


def foresee(chain: Iterable[Step], environment: Environment) -> None:
    """Sets each step's outcome to what running it would give: ``Reused``, or ``to run``. Nothing is written or downloaded."""
    pending: set[Key] = set()
    hashes = HashCache(environment.cache / HASHES, lambda: None)
    for step in chain:
        reads_new = any(key in pending for key in step.after)
        try:
            done = None if reads_new else _published_before(step.job, environment, hashes)
        except WorkloadError as error:
            error.args = (f"{step.title}: {error}",)  # no line above it says whose it is
            raise
        if done is None:
            step.outcome = "to run"
            pending.add(step.key)
        else:
            step.outcome, step.metrics = "Reused", dict(done.metrics)


def _published_before(job: Job, environment: Environment, hashes: HashCache) -> Publisher | None:
    """What has found the result of the job in its place, if that is there."""
    try:
        inputs = sources.collect(job.spec, environment, hashes, lambda: None)
        place = output_place(job.spec.output.uri, inputs, environment, lambda: None)
        asked = scale.as_begun(scale.of(job, environment), job, inputs, place).asked
        publisher = Publisher(job, inputs, place, hashes, asked)
        publisher.look()
    except OutputExists:
        return None
    return publisher if publisher.published is not None else None


# ---- the run ----


def run(chain: Sequence[Step]) -> int:
    """Every step in order, up to the first that fails, or until a signal comes; the exit code."""
    stop = Stop(0)
    with stop.listening():
        for number, step in enumerate(chain, start=1):
            print(f"[{number}/{len(chain)}] {step.title} → {step.job.spec.output.uri}", file=sys.stderr, flush=True)
            if stop.requested:
                step.outcome = "Interrupted"
                return exits.exit_with(Interrupted(f"stopped before {step.title}: run again to go on"), os.environ)
            exit_code = _run_step(step, stop)
            if exit_code != contract.ExitCode.OK:
                return exit_code
    return 0


def _run_step(step: Step, stop: Stop) -> int:
    """Sets the step's outcome, time and metrics; returns its exit code."""
    began = time.monotonic()
    ending = execute(_replacing_its_own(step.job), _workload(step.job), stop)
    step.seconds = time.monotonic() - began
    step.metrics = ending.metrics or {}
    gc.collect()  # the next step needs the memory of this one's model
    if ending.exit_code == contract.ExitCode.OK:
        step.outcome = "Reused" if ending.output and ending.output.reused else "Succeeded"
    elif ending.exit_code == contract.ExitCode.INTERRUPTED:
        step.outcome = "Interrupted"
    else:
        step.outcome = "Failed"
    return ending.exit_code


def publish(chain: Sequence[Step], *, alone: bool) -> int:
    """What the steps have made, pushed to the places that they name, the last thing of all: gates have passed by then. The exit code of the
    first that could not be pushed. ``alone``: the gates' own steps are not among them."""
    known = {step.key: step.job for step in chain}
    for step in chain:
        places = range(len(publications(step.job.spec)))
        if not places:
            continue
        if alone:
            if code := publishing.after_the_run(step.job, None):
                return code
            continue
        try:
            publishing.must_have_passed(step.job, known)
        except WorkloadError as error:
            return exits.exit_with(error, os.environ)
        ending = publishing.publish(step.job, places)
        if ending.exit_code != contract.ExitCode.OK:
            return ending.exit_code
    return 0


def _workload(job: Job) -> Workload:
    """The ``run`` of the command for the job's kind."""
    workload: Workload = importlib.import_module(f"workloads.{job.workload}").run
    return workload


def _replacing_its_own(job: Job) -> Job:
    """A step that was changed replaces what it made before: in a chain the name stays and the content follows the file. What another job
    made stays where it is, and the step is refused. The old output is there until the new one is whole."""
    environment = Environment.read(os.environ)
    try:
        place = output_place(job.spec.output.uri, sources.Inputs(), environment, lambda: None)
        artifact = place.artifact()
    except WorkloadError:
        return job  # the run says so itself, with all it knows
    if artifact is None or artifact.job != {"kind": job.kind, "name": job.metadata.name}:
        return job
    output = job.spec.output.model_copy(update={"overwrite": True})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"output": output})})


# ---- after: the table ----


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


def _metrics_line(metrics: dict[str, float | None]) -> str:
    parts = []
    for name, earlier in SHOWN_METRICS.items():
        before, after = metrics.get(earlier or ""), metrics.get(name)
        if after is not None:
            parts.append(
                f"{name} {_number(after)}" if before is None else f"{name} {_number(before)} → {_number(after)}"
            )
    for name in COMPARED_METRICS:
        by_model = {key.removesuffix(f"/{name}"): value for key, value in metrics.items() if key.endswith(f"/{name}")}
        if by_model:
            parts.append(f"{name} of " + ", ".join(f"{model} {_number(value)}" for model, value in by_model.items()))
            break
    return ", ".join(parts)


def _number(value: float | None) -> str:
    """Four digits, and never an exponent of a number that is easily read."""
    if value is None:
        return "none"
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e9 else f"{value:.4g}"
