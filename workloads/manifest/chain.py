"""A chain of jobs: ordered by who reads whose output, each input that another job makes resolved to its place."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Literal, TypeVar

from alpaca_operator.api import Resource
from alpaca_operator.api.chain import Find, cycle, links, mismatch
from alpaca_operator.api.resource import Job
from alpaca_operator.api.sources import JobReference, resolved
from workloads.errors import SpecError

R = TypeVar("R", bound=Resource)

Key = tuple[str, str]
"""Kind and name."""
Outcome = Literal["Succeeded", "Reused", "Failed", "Interrupted", "to run", "not run"]


@dataclass
class Step:
    """A job of the chain, its inputs resolved to places."""

    job: Job
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


def steps(jobs: Sequence[Job]) -> list[Step]:
    """The jobs in an order in which each finds its inputs; otherwise as in the file.

    Raises SpecError for two jobs of one name or with one output, a reference to a job that is not there or makes something else, and a circle.
    """
    known: dict[Key, Job] = {}
    owners: dict[str, Job] = {}
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

    def find(reference: JobReference) -> Job | None:
        return known.get((reference.kind, reference.name))

    made = {key: Step(*linked(job, find)) for key, job in known.items()}
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


def linked(resource: R, find: Find) -> tuple[R, tuple[Key, ...]]:
    """The resource with the places of outputs for its references, and the jobs that make them. Raises SpecError for one that is not known or
    does not fit."""
    uris: dict[str, str] = {}
    after: list[Key] = []
    for link in links(resource):
        producer = find(link.producer)
        if producer is None:
            raise SpecError(
                f"{resource.kind} {resource.metadata.name}: spec.{link.field}.from names {link.producer.kind} {link.producer.name}, which none of the "
                "files holds: add its manifest to them, or name its output by uri"
            )
        if problem := mismatch(link, producer):
            raise SpecError(f"{resource.kind} {resource.metadata.name}: spec.{problem}")
        uris[link.field] = producer.spec.output.uri
        after.append((link.producer.kind, link.producer.name))
    return resource.model_copy(update={"spec": resolved(resource.spec, uris)}), tuple(dict.fromkeys(after))


def only(chain: Sequence[Step], name: str) -> list[Step]:
    """The steps of one name, for ``--only``. Raises SpecError where there is none."""
    chosen = [step for step in chain if step.job.metadata.name == name]
    if not chosen:
        raise SpecError(f"--only {name}: no such job; there are {', '.join(step.job.metadata.name for step in chain)}")
    return chosen
