"""What a workload's ``run`` is given: its inputs, a place for its output, checkpoints, progress, and the request to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alpaca_operator.api import contract
from alpaca_operator.api.resource import Job
from workloads.runtime.distributed import DistributedContext
from workloads.runtime.progress import ProgressTracker
from workloads.runtime.scale import Scale
from workloads.storage import room
from workloads.storage.artifact import Publisher
from workloads.storage.attempts import Attempts
from workloads.storage.checkpoints import Checkpoints, Run
from workloads.storage.hashing import HashCache
from workloads.storage.output import OutputPlace, output_place
from workloads.storage.sources import Inputs
from workloads.system.environment import Environment
from workloads.system.signals import Stop

Metrics = dict[str, float | None]
"""Final numbers of a run by camelCase name; None where the value was not a number."""

HASHES = "digests.json"
"""The file of the cache that holds the digests of inputs."""


@dataclass(frozen=True)
class RunContext:
    """A run that is going to be made, as each of its processes has to know it. It can be pickled."""

    job: Job
    workload: Callable[[Any, Runtime], Metrics]
    environment: Environment
    inputs: Inputs
    run: Run
    scale: Scale

    def in_run(self, run_id: str) -> RunContext:
        """As a part of this run, which another node has named."""
        environment, run = replace(self.environment, run_id=run_id), self.run.model_copy(update={"run_id": run_id})
        return replace(self, environment=environment, run=run)

    def place(self, heartbeat: Callable[[], None]) -> OutputPlace:
        """Where the output goes."""
        return output_place(self.job.spec.output.uri, self.inputs, self.environment, heartbeat)

    def hashes(self, heartbeat: Callable[[], None]) -> HashCache:
        """Digests of files, kept in the cache."""
        return HashCache(self.environment.cache / HASHES, heartbeat)

    def attempts(self, place: OutputPlace, log: Callable[[str], None]) -> Attempts:
        """The runs that the job has had, and this one."""
        return Attempts(place.checkpoints, self.run, self.scale.count, log)

    def checkpoints(
        self, place: OutputPlace, hashes: HashCache, tracker: ProgressTracker, verify: Callable[[], None] = lambda: None
    ) -> Checkpoints:
        """Those of the job, over all its runs."""
        return Checkpoints(
            place,
            self.run,
            hashes,
            log=tracker.log,
            on_complete=lambda checkpoint: tracker.update(checkpoint=checkpoint),
            verify=verify,
        )


class Runtime:
    """What a workload's ``run`` is given."""

    def __init__(
        self,
        context: RunContext,
        stop: Stop,
        progress: ProgressTracker,
        distributed: DistributedContext,
        verify: Callable[[], None] = lambda: None,
    ) -> None:
        """``verify`` raises where the inputs turn out not to be what the run took them for: nothing is published before."""
        self.job = context.job
        self.run_id = context.environment.run_id
        self.group = context.environment.group
        """What this machine has in common with others that each do a part of the work; None where it does all."""
        self.cache = context.environment.cache
        """A writable folder for tokenised data and downloads."""
        self.cache_is_kept = context.environment.cache_is_kept
        """Whether the next run finds what lies there."""
        self.inputs = context.inputs
        """Every source of the spec by its path there: ``model``, ``dataset.train[0]``, ``templateFile``."""
        self.stop = stop
        self.progress = progress
        self.distributed = distributed
        """The processes that train together, or the machines that share the work. What is written, published and logged, the first of them does."""
        self.scale = context.scale
        """How many they are, and how many were asked for."""
        self._place = place = context.place(progress.heartbeat)
        self._hashes = context.hashes(progress.heartbeat)
        self._verify = verify
        self.checkpoints = context.checkpoints(place, self._hashes, progress, verify)
        self.attempts = context.attempts(place, progress.log)
        """The runs of the job, in which the first process notes the steps that are made."""
        self._publisher = Publisher(context.job, context.inputs, place, self._hashes, context.scale.asked)
        self._publisher.guard(place.fence(context.run))

    def resolved(self, policy: dict[str, Any]) -> None:
        """What ``Auto`` became: for the user now, for the status, and for the artifact."""
        self.progress.update(resolved_policy=policy)
        self.progress.log("resolved: " + ", ".join(f"{name}={value}" for name, value in policy.items()))

    def mixed(self, mixture: list[dict[str, Any]]) -> None:
        """What each of several sources gives: for the status, and for the artifact."""
        self.progress.update(resolved_policy={**(self.progress.current.resolved_policy or {}), "mixture": mixture})

    @contextmanager
    def output(self, kind: str, metrics: Metrics, *, final: bool = True) -> Iterator[Path]:
        """A folder to write the result into; it is published when the block ends well, and disappears when it does not.

        Not ``final``, it is what was trained, as it would be published without any field that shapes only the publishing: the result
        that is made of it takes its place, and where none can be made, it and the checkpoints stay.

        Raises Superseded when another run took over meanwhile.
        """
        self.progress.update(stage="Saving")
        with self._publisher.writing() as folder:
            yield folder
            self._verify()
            policy = self.progress.current.resolved_policy or {}
            attempts = [one for one in self.attempts.all() or () if one.last_step > one.first_step]
            published = self._publisher.publish(folder, kind, metrics, policy, attempts, final=final)
        if not final:
            self.progress.log(f"published what was trained at {published.uri} ({published.digest})")
            return
        self.attempts.close()
        self.checkpoints.discard_all()
        self._hashes.save()

    def must_have_room(self, *, result: int, checkpoints: int = 0, written: str = "", remedy: str = "") -> None:
        """Raises SpecError, with the numbers, where the volume of the output cannot take the ``result`` and what is kept until it is there.

        Sizes are in bytes; ``written`` says in words what the checkpoints are, ``remedy`` what to do besides enlarging the volume.
        """
        needs = [room.Need(self._place.staging.parent, result, f"the output of {room.in_words(result)}")]
        if checkpoints:
            missing = max(0, checkpoints - self.checkpoints.kept_bytes())
            needs.insert(0, room.Need(self._place.checkpoints.parent, missing, written))
        uri = self.job.spec.output.uri
        for sentence in room.must_suffice(
            needs, f"spec.output.uri: {uri}", remedy or "name another one in spec.output.uri"
        ):
            self.progress.log(sentence)

    def reject(self, report: Path) -> str:
        """Keep the folder ``report`` beside the output, whose result was measured and is not published; returns its URI.

        The next result that is published there takes it away. Raises Superseded when another run took over.
        """
        self._verify()
        return self._publisher.reject(report)

    @property
    def published(self) -> contract.Published | None:
        """What was published; None until `output` has ended well."""
        return self._publisher.published
