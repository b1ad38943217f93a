"""What every workload runs in: inputs, output, checkpoints, progress, signals, watchdog, and one way to end.

``execute`` reads downwards as a run goes: find the inputs, see whether the result is there already, run, publish, say how it ended.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from alpaca_operator.api import Resource, contract
from alpaca_operator.api.chain import noted
from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.status import Reason
from workloads.errors import Hung, SpecError, WorkloadError
from workloads.runtime import exits, launcher
from workloads.runtime.console import display
from workloads.runtime.distributed import DistributedContext
from workloads.runtime.progress import Display, ProgressTracker
from workloads.runtime.watchdog import Watchdog
from workloads.storage import output, sources
from workloads.storage.artifact import Publisher
from workloads.storage.checkpoints import Checkpoints, Run
from workloads.storage.hashing import HashCache
from workloads.storage.sources import Inputs
from workloads.storage.uri import local_path
from workloads.system.clock import now
from workloads.system.environment import QUIET, TELEMETRY_OFF, Environment, share_processors
from workloads.system.signals import Stop

Metrics = dict[str, float | None]
"""Final numbers of a run by camelCase name; None where the value was not a number."""


class Runtime:
    """What a workload's ``run`` is given."""

    def __init__(
        self,
        job: Resource,
        environment: Environment,
        inputs: Inputs,
        stop: Stop,
        progress: ProgressTracker,
        checkpoints: Checkpoints,
        publisher: Publisher,
        distributed: DistributedContext,
    ) -> None:
        self.job = job
        self.run_id = environment.run_id
        self.cache = environment.cache
        """A writable folder for tokenised data and downloads."""
        self.inputs = inputs
        """Every source of the spec by its path there: ``model``, ``dataset.train[0]``, ``templateFile``."""
        self.stop = stop
        self.progress = progress
        self.checkpoints = checkpoints
        self.distributed = distributed
        """The processes that train together. What is written, published and told, the first of them does."""
        self._publisher = publisher

    def resolved(self, policy: dict[str, Any]) -> None:
        """What ``Auto`` became: told to the user now, to the status, and to the artifact."""
        self.progress.update(resolved_policy=policy)
        self.progress.log("resolved: " + ", ".join(f"{name}={value}" for name, value in policy.items()))

    @contextmanager
    def output(self, kind: str, metrics: Metrics) -> Iterator[Path]:
        """A folder to write the result into; it is published when the block ends well, and disappears when it does not.

        Raises Superseded when another run took over meanwhile.
        """
        self.progress.update(stage="Saving")
        with self._publisher.writing() as folder:
            yield folder
            self._publisher.publish(folder, kind, metrics, self.progress.current.resolved_policy or {})
        self.checkpoints.discard_all()

    def reject(self, report: Path) -> str:
        """Keep the folder ``report`` beside the output, whose result was measured and is not published; returns its URI.

        The next result that is published there takes it away. Raises Superseded when another run took over.
        """
        return self._publisher.reject(report)


def execute(job: Resource, run: Callable[[Any, Runtime], Metrics]) -> int:
    """Run ``job`` in this process, tell how it ended, and return the exit code."""
    return end_of(job, run).exit_code


def end_of(job: Resource, run: Callable[[Any, Runtime], Metrics], chain: Stop | None = None) -> contract.Termination:
    """As ``execute``, returning the last word: what a chain goes on from. Its own ``Stop`` hears of the signals that come meanwhile."""
    try:
        environment = Environment.read(os.environ)
    except WorkloadError as error:
        return exits.refuse_to_start(error, os.environ)
    prepare_process()
    stop = Stop(job.spec.pod.termination_grace_period_seconds, above=chain)

    def tell(ending: contract.Termination) -> None:
        exits.write_termination(ending, environment.termination_log)

    with display(environment.in_pod) as shown, stop.listening():
        ending, _ = _guarded(
            job, environment, shown, lambda *watched: _work(job, run, environment, stop, *watched), tell
        )
    tell(ending)
    return ending


def _guarded(
    job: Resource,
    environment: Environment,
    shown: Display,
    work: Callable[[ProgressTracker, Watchdog], contract.Termination],
    tell_hung: Callable[[contract.Termination], None],
) -> tuple[contract.Termination, BaseException | None]:
    """Do ``work``, watched; however it ends, that becomes a last word. Also returns the error that it was made of."""
    watchdog = Watchdog(job.spec.failure_policy.hang_timeout_seconds)
    tracker = ProgressTracker(shown, watchdog.heartbeat)
    watchdog.start(lambda silence: tell_hung(exits.failed(_hung(silence, tracker), tracker.current)))
    imports = _Imports(tracker)
    sys.meta_path.insert(0, imports)
    try:
        return work(tracker, watchdog), None
    except BaseException as error:  # noqa: BLE001 - every way to end has to reach the exit code and the last word
        told = launcher.named(error)
        return exits.failed(told, tracker.current, _written(job, environment)), told
    finally:
        sys.meta_path.remove(imports)
        watchdog.stop()
        tracker.close()


class _Imports:
    """Finds no module, but counts every search as a sign of life: on a busy node the libraries take a minute to import."""

    def __init__(self, tracker: ProgressTracker) -> None:
        self._tracker = tracker

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        self._tracker.heartbeat()


def _work(
    job: Resource,
    run: Callable[[Any, Runtime], Metrics],
    environment: Environment,
    stop: Stop,
    tracker: ProgressTracker,
    watchdog: Watchdog,
) -> contract.Termination:
    with _served(tracker, environment):
        return _reuse_or_make(job, run, environment, stop, tracker, watchdog)


def _reuse_or_make(
    job: Resource,
    run: Callable[[Any, Runtime], Metrics],
    environment: Environment,
    stop: Stop,
    tracker: ProgressTracker,
    watchdog: Watchdog,
) -> contract.Termination:
    """The result that is there already, or the run that makes it."""
    _make_cache(environment)
    tracker.update(stage="Loading")

    def heartbeat() -> None:
        tracker.heartbeat()
        stop.check()  # in the threads that download, which no signal reaches

    share_processors()
    count = launcher.processes(job, environment)
    known = HashCache(environment.cache / "digests.json", tracker.heartbeat)
    with stop.interruptible():
        inputs = sources.collect(job.spec, environment, known, heartbeat)
        sources.must_be_as_published(inputs, noted(job.metadata.annotations))
        place = output.output_place(job.spec.output.uri, inputs, environment, tracker.heartbeat)
        publisher = Publisher(job, inputs, place, known, count)
        notice = publisher.look()
        known.save()
    this = Run(
        run_id=environment.run_id,
        job=f"{job.kind} {job.metadata.name}",
        spec_digest=publisher.spec_digest,
        started_at=now(),
    )
    part = Part(job, run, environment, inputs, this, count)
    checkpoints = part.checkpoints(place, known, tracker)
    if publisher.published is not None:
        place.fence(this).release()
        checkpoints.discard_all()  # a run that ended between publishing and tidying up leaves them
        tracker.finish(f"reused {place.uri}: it was made from the same settings and inputs")
        return _ended_well(Reason.REUSED, publisher, inputs, tracker, dict(publisher.metrics))
    with stop.interruptible():
        launcher.must_have_gpus(job, environment, count)
    if notice:
        tracker.log(notice)
    if not place.checkpoints_are_kept:
        tracker.log(
            "checkpoints of an s3:// output end with this pod: set cache.claimName, and a restart goes on from them"
        )
    place.prepare()
    place.tidy()
    checkpoints.tidy()
    checkpoints.acquire()
    place.fence(this).acquire()
    if count == 1:
        ending = _perform(part, stop, tracker, DistributedContext())
    else:
        share_processors(count)
        tracker.log(f"{count} processes train together")
        with watchdog.resting():
            ending = launcher.run_workers(count, partial(_take_part, part), environment, tracker, stop)
    if ending.output is not None:
        tracker.finish(f"published {ending.output.uri} ({ending.output.digest})")
    return ending


@dataclass(frozen=True)
class Part:
    """What a process has to know to take part in a run."""

    job: Resource
    run: Callable[[Any, Runtime], Metrics]
    environment: Environment
    inputs: Inputs
    this: Run
    count: int
    """Processes that take part."""

    def checkpoints(self, place: output.OutputPlace, known: HashCache, tracker: ProgressTracker) -> Checkpoints:
        return Checkpoints(
            place,
            self.this,
            known,
            log=tracker.log,
            on_complete=lambda checkpoint: tracker.update(checkpoint=checkpoint),
        )


def _take_part(part: Part, member: launcher.Worker) -> contract.Termination:
    """What each of several processes does."""
    prepare_process()
    stop = Stop(part.job.spec.pod.termination_grace_period_seconds, signals=(signal.SIGTERM,))

    def work(tracker: ProgressTracker, _: Watchdog) -> contract.Termination:
        return _perform(part, stop, tracker, DistributedContext(member.rank, member.count, tracker.heartbeat))

    with stop.listening():
        ending, error = _guarded(part.job, part.environment, member.display, work, member.leave)
    member.leave(ending, is_collateral=isinstance(error, launcher.SiblingLost))
    return ending


def _perform(part: Part, stop: Stop, tracker: ProgressTracker, distributed: DistributedContext) -> contract.Termination:
    """Run the workload, to its published end."""
    job, inputs = part.job, part.inputs
    known = HashCache(part.environment.cache / "digests.json", tracker.heartbeat)
    place = output.output_place(job.spec.output.uri, inputs, part.environment, tracker.heartbeat)
    publisher = Publisher(job, inputs, place, known, part.count)
    publisher.guard(place.fence(part.this))
    checkpoints = part.checkpoints(place, known, tracker)
    try:
        metrics = part.run(
            job, Runtime(job, part.environment, inputs, stop, tracker, checkpoints, publisher, distributed)
        )
    except OSError:
        checkpoints.check()  # the run that took over has tidied away what this one was writing
        raise
    if not distributed.is_main:
        return exits.termination(Reason.SUCCEEDED, ExitCode.OK, "the first process publishes", tracker.current)
    if publisher.published is None:
        raise WorkloadError(
            f"{job.kind} ended without publishing its output: this is a bug in workloads/{job.workload}.py"
        )
    known.save()
    return _ended_well(Reason.SUCCEEDED, publisher, inputs, tracker, metrics)


def _ended_well(
    reason: Reason, publisher: Publisher, inputs: Inputs, tracker: ProgressTracker, metrics: Metrics | None = None
) -> contract.Termination:
    assert publisher.published is not None
    return exits.termination(
        reason,
        ExitCode.OK,
        f"{publisher.published.uri} holds the {publisher.published.kind}",
        tracker.current.model_copy(update={"checkpoint": None}),
        metrics=metrics,
        output=publisher.published,
        resolved_inputs={field: {"uri": found.uri, "digest": found.digest} for field, found in inputs.items()},
    )


def _hung(silence: float, tracker: ProgressTracker) -> Hung:
    at = f" at step {tracker.current.step}" if tracker.current.step is not None else ""
    return Hung(
        f"nothing moved for {silence:.0f} s while {tracker.current.stage.lower()}{at}: the stacks of all threads are in the log; "
        "if a step or an evaluation takes this long, raise failurePolicy.hangTimeoutSeconds"
    )


@contextmanager
def _served(tracker: ProgressTracker, environment: Environment) -> Iterator[None]:
    """Progress is told over HTTP while the block runs, where a port was asked for and is free."""
    if environment.progress_address is None:
        yield
        return
    from workloads.runtime import metrics_server  # prometheus_client takes its time, and a laptop seldom asks

    host, port = environment.progress_address
    with ExitStack() as stack:
        try:
            port = stack.enter_context(metrics_server.serve(tracker, host, port))
        except OSError as error:
            tracker.log(f"/progress is not served: port {port}: {error.strerror}")
        else:
            if not environment.in_pod:
                tracker.log(f"progress is served at http://{host}:{port}/progress")
        yield


def _written(job: Resource, environment: Environment) -> tuple[Path, ...]:
    """Folders that a run writes to."""
    uri = job.spec.output.uri
    output = () if uri.startswith("s3://") else (local_path(uri, environment),)
    return (*output, environment.cache, Path(tempfile.gettempdir()))


def _make_cache(environment: Environment) -> None:
    try:
        environment.cache.mkdir(parents=True, exist_ok=True)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise SpecError(
            f"spec.cache: user {os.getuid()} cannot make {environment.cache}: {error.strerror}; set {contract.ENV_CACHE} to a folder that it may write"
        ) from error


def prepare_process() -> None:
    """Settle what libraries read once, at import: no telemetry, no progress bars of theirs, logs to stderr."""
    for name, value in (TELEMETRY_OFF | QUIET).items():
        os.environ.setdefault(name, value)
    faulthandler.enable(file=sys.__stderr__ or 2)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
