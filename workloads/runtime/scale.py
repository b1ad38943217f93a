"""How many processes train, and how many were asked for: a step sees what those would see, however many there are.

A step is `batchSizePerDevice` × `gradientAccumulation` × the processes asked for. With fewer or more of them each makes more or fewer passes,
so that the order of the rows, the step, and what the result is made from stay as they are. Where others began the job, with another number
and the same spec besides, it is their step that is gone on with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from alpaca_operator.api import contract
from alpaca_operator.api.resource import Job, Parallelism
from workloads.errors import SpecError
from workloads.runtime import gpus
from workloads.storage.artifact import spec_digest
from workloads.storage.checkpoints import Record, records
from workloads.storage.output import OutputPlace
from workloads.storage.sources import Inputs
from workloads.system.environment import Environment

NUMBERS_NAMED = 8
"""As many numbers of processes that would fit are named."""


@dataclass(frozen=True)
class Scale:
    """How many processes there are, and how many were asked for."""

    nodes: int = 1
    """Machines that take part."""
    processes: int = 1
    """On each of them."""
    asked: int = 1
    """Processes in all whose passes make a step."""

    @property
    def count(self) -> int:
        """Processes in all."""
        return self.nodes * self.processes

    def accumulation(self, gradient_accumulation: int) -> int:
        """Passes of each process in a step, of which each of those asked for would make ``gradient_accumulation``."""
        return gradient_accumulation * self.asked // self.count

    def told(self, gradient_accumulation: int) -> str | None:
        """What is another than the spec says; None where nothing is."""
        if self.count == self.asked:
            return None
        return (
            f"{_processes(self.count)} in place of {self.asked}: a step stays as it is, with {self.accumulation(gradient_accumulation)} passes "
            f"of each instead of {gradient_accumulation}; its losses are the same but for the rounding of sums, and for dropout, which each process "
            "draws for itself"
        )


ALONE = Scale()
"""One process, as asked for."""


def of(job: Job, environment: Environment) -> Scale:
    """What the spec asks for, and what there is of it.

    Raises SpecError where there are fewer nodes than may train, and where this machine was not told which of several it is.
    """
    parallelism = getattr(job.spec, "parallelism", None)
    processes = gpus.processes(job, environment)
    if not isinstance(parallelism, Parallelism):
        return Scale(processes=processes, asked=processes)
    return Scale(_nodes(parallelism, environment), processes, int(parallelism.nodes) * processes)


def as_begun(scale: Scale, job: Job, inputs: Inputs, place: OutputPlace) -> Scale:
    """``scale``, with the step of the run that this one goes on, or has helped to end, where others were asked for.

    Raises SpecError where the processes that are there cannot share a step.
    """
    if not isinstance(getattr(job.spec, "parallelism", None), Parallelism):
        return scale
    scale = replace(scale, asked=_asked(scale, job, inputs, place))
    _must_share_a_step(job, scale, place)
    return scale


def _asked(scale: Scale, job: Job, inputs: Inputs, place: OutputPlace) -> int:
    begun = [record.processes for record in records(place.checkpoints) if _is_of(job, inputs, record)]
    if begun:
        return scale.asked if scale.asked in begun else begun[0]
    artifact = place.artifact()
    if (
        artifact is not None
        and any(attempt.processes == scale.asked for attempt in artifact.attempts)
        and artifact.spec_digest == spec_digest(job, inputs, artifact.processes)
    ):
        return artifact.processes
    return scale.asked


def _is_of(job: Job, inputs: Inputs, record: Record) -> bool:
    """Whether a run of this job made the checkpoint, whatever number of processes it asked for."""
    return record.processes > 0 and record.training_digest == spec_digest(
        job, inputs, record.processes, published=False
    )


def _nodes(parallelism: Any, environment: Environment) -> int:
    asked = int(parallelism.nodes)
    least = asked if parallelism.min_nodes is None else int(parallelism.min_nodes)
    there = asked if environment.nodes is None else environment.nodes
    if not least <= there <= asked:
        fits = str(asked) if least == asked else f"{least} to {asked}"
        raise SpecError(
            f"{contract.ENV_NODES} is {there}, and spec.parallelism asks for {fits}: set it to that, or parallelism.minNodes to the fewest nodes "
            "that may train"
        )
    if there > 1 and (environment.coordinator is None or environment.node >= there):
        raise SpecError(
            f"{there} nodes are to train (spec.parallelism.nodes is {asked}), and this machine was not told which of them it is: set "
            f"{contract.ENV_NODE} (0 to {there - 1}), {contract.ENV_COORDINATOR} (a name or address of node 0) and one {contract.ENV_RUN_ID} on "
            "each, over a storage that all of them see, or nodes to 1"
        )
    return there


def _must_share_a_step(job: Job, scale: Scale, place: OutputPlace) -> None:
    loop: Any = job.spec.training  # type: ignore[attr-defined]  # every kind with `parallelism` has it
    passes = loop.gradient_accumulation * scale.asked
    if passes % scale.count == 0:
        return
    fitting = [number for number in range(1, passes + 1) if passes % number == 0]
    nearest = sorted(sorted(fitting, key=lambda number: abs(number - scale.count))[:NUMBERS_NAMED])
    raise SpecError(
        f"{_processes(scale.count)} cannot share a step of {passes} passes (training.gradientAccumulation {loop.gradient_accumulation} × the "
        f"{_processes(scale.asked)} that it was asked for): {', '.join(map(str, nearest))} can (parallelism.nodes × processesPerNode); to train with "
        f"other steps, remove {place.checkpoints} or name another output"
    )


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"
