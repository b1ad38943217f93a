"""A chain of jobs in one process: ordered by who reads whose output, reused where nothing changed, stopped at the first failure."""

from __future__ import annotations

import gc
import importlib
import os
import posixpath
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Literal

from alpaca_operator.api import Resource, contract
from alpaca_operator.api.base import JobReference, resolved
from alpaca_operator.api.chain import Find, cycle, links, mismatch
from workloads.errors import Interrupted, OutputExists, SpecError, WorkloadError
from workloads.runtime import exits, launcher, runtime
from workloads.storage import artifact, sources
from workloads.storage.hashing import Digests
from workloads.system.environment import Environment
from workloads.system.signals import Stop

Key = tuple[str, str]
"""Kind and name."""
Outcome = Literal["Succeeded", "Reused", "Failed", "Interrupted", "to run", "not run"]


@dataclass
class Step:
    """A job of the chain, its inputs resolved to places."""

    job: Resource
    after: tuple[Key, ...]
    """The steps whose outputs it reads."""
    outcome: Outcome = "not run"
    seconds: float = 0.0
    metrics: dict[str, float | None] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.job.kind, self.job.metadata.name

    @property
    def title(self) -> str:
        return f"{self.job.kind} {self.job.metadata.name}"


def steps(jobs: Sequence[Resource]) -> list[Step]:
    """The jobs in an order in which each finds its inputs; otherwise as in the file.

    Raises SpecError for two jobs of one name or with one output, a reference to a job that is not there or makes something else, and a circle.
    """
    known: dict[Key, Resource] = {}
    owners: dict[str, Resource] = {}
    for job in jobs:
        key = (job.kind, job.metadata.name)
        if key in known:
            raise SpecError(f"{job.kind} {job.metadata.name} is there twice: give one of them another name")
        known[key] = job
        owner = owners.setdefault(_normal(job.spec.output.uri), job)
        if owner is not job:
            raise SpecError(
                f"{owner.kind} {owner.metadata.name} and {job.kind} {job.metadata.name} have the same spec.output.uri, {job.spec.output.uri}: give "
                "each a folder of its own"
            )

    def find(reference: JobReference) -> Resource | None:
        return known.get((reference.kind, reference.name))

    made = {key: step(job, find) for key, job in known.items()}
    try:
        order = list(TopologicalSorter({key: one.after for key, one in made.items()}).static_order())
    except CycleError:
        job, circle = next((job, circle) for job in jobs if (circle := cycle(job, find)))
        raise SpecError(
            f"{job.kind} {job.metadata.name} waits for itself ({' → '.join(circle)}): break the circle"
        ) from None
    return [made[key] for key in order]


def _normal(uri: str) -> str:
    """One spelling of ``out``, ``./out`` and ``out/``."""
    scheme, separator, path = uri.rpartition("://")
    return f"{scheme}{separator}{posixpath.normpath(path)}"


def step(job: Resource, find: Find) -> Step:
    """The job with the places of outputs for its references. Raises SpecError for one that is not known or does not fit."""
    uris, after = {}, []
    for link in links(job):
        producer = find(link.producer)
        if producer is None:
            raise SpecError(
                f"{job.kind} {job.metadata.name}: spec.{link.field}.from names {link.producer.kind} {link.producer.name}, which none of the "
                "files holds: add its manifest to them, or name its output by uri"
            )
        if problem := mismatch(link, producer):
            raise SpecError(f"{job.kind} {job.metadata.name}: spec.{problem}")
        uris[link.field] = producer.spec.output.uri
        after.append((link.producer.kind, link.producer.name))
    return Step(job.model_copy(update={"spec": resolved(job.spec, uris)}), tuple(dict.fromkeys(after)))


def only(chain: Sequence[Step], name: str) -> list[Step]:
    """The steps of one name, for ``--only``. Raises SpecError where there is none."""
    chosen = [step for step in chain if step.job.metadata.name == name]
    if not chosen:
        raise SpecError(f"--only {name}: no such job; there are {', '.join(step.job.metadata.name for step in chain)}")
    return chosen


def foresee(chain: Iterable[Step], environment: Environment) -> None:
    """Sets each step's outcome to what running it would give: ``Reused``, or ``to run``. Nothing is written or downloaded."""
    pending: set[Key] = set()
    known = Digests(environment.cache / "digests.json", lambda: None)
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


def _done(job: Resource, environment: Environment, known: Digests) -> artifact.Publisher | None:
    """What has found the result of the job in its place, if that is there."""
    try:
        inputs = sources.collect(job.spec, environment, known, lambda: None)
        place = sources.output_place(job.spec.output.uri, inputs, environment, lambda: None)
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
                return exits.refuse(Interrupted(f"stopped before {step.title}: run again to go on"), os.environ)
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
        place = sources.output_place(job.spec.output.uri, sources.Inputs(), environment, lambda: None)
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
        rows.append((step.title, step.outcome, took, step.job.spec.output.uri, _told(step.metrics)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]]).rstrip()
        for row in rows
    )


TOLD = {
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


def _told(metrics: dict[str, float | None]) -> str:
    told = []
    for name, earlier in TOLD.items():
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
