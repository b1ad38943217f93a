"""A run from its start to its exit code; the module reads downwards as it goes.

Find the inputs, see whether the result is there already, take the place, run the workload in one process or in several, say how it ended.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from alpaca_operator.api import contract
from alpaca_operator.api.chain import noted
from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.resource import Job, Parallelism
from alpaca_operator.api.status import Reason
from workloads.errors import Hung, SpecError, WorkloadError
from workloads.runtime import exit_reports, exits, gpus, nodes
from workloads.runtime import scale as scales
from workloads.runtime.console import display, prepare_process
from workloads.runtime.distributed import DistributedContext
from workloads.runtime.nodes import NodeGroup
from workloads.runtime.places import Places
from workloads.runtime.progress import Display, ProgressTracker
from workloads.runtime.runtime import HASHES, Metrics, RunContext, Runtime
from workloads.runtime.watchdog import Watchdog
from workloads.runtime.worker import Worker
from workloads.storage import output, sources
from workloads.storage.artifact import Publisher
from workloads.storage.checkpoints import Checkpoints, Run
from workloads.storage.contents import Verification
from workloads.storage.hashing import HashCache
from workloads.storage.output import OutputPlace
from workloads.storage.sources import Inputs
from workloads.system import atomic
from workloads.system.clock import now
from workloads.system.environment import Environment, share_processors
from workloads.system.os_errors import FULL, sentence
from workloads.system.signals import Stop

Workload = Callable[[Any, Runtime], Metrics]
"""The ``run`` of a command."""


def execute(job: Job, workload: Workload, chain: Stop | None = None) -> contract.Termination:
    """Run ``job`` in this process, and say how it ended, on stderr and to the kubelet. In a chain of jobs, ``chain`` hears of the signals
    that come meanwhile."""
    try:
        environment = Environment.read(os.environ)
    except WorkloadError as error:
        return exits.refuse_to_start(error, os.environ)
    prepare_process()
    stop = Stop(job.spec.pod.termination_grace_period_seconds, above=chain)

    def write(ending: contract.Termination) -> None:
        exits.write_termination(ending, environment.termination_log)

    def work(tracker: ProgressTracker, watchdog: Watchdog) -> contract.Termination:
        make_cache(environment)
        hashes = HashCache(environment.cache / HASHES, tracker.heartbeat)
        with progress_served(tracker, environment), closing(Verification(hashes)) as verification:
            return _reuse_or_make(job, workload, environment, Watched(stop, tracker, watchdog), verification)

    with display(environment.in_pod) as console, stop.listening():
        ending, _ = guarded(job, environment, console, work, write)
    write(ending)
    return ending


# ---- the result that is there already, or the run that makes it ----


@dataclass(frozen=True)
class Watched:
    """What a run listens to and reports to."""

    stop: Stop
    tracker: ProgressTracker
    watchdog: Watchdog


def _reuse_or_make(
    job: Job, workload: Workload, environment: Environment, watched: Watched, verification: Verification
) -> contract.Termination:
    stop, tracker, hashes = watched.stop, watched.tracker, verification.hashes
    began = now()
    tracker.update(stage="Loading")
    share_processors()
    there = scales.of(job, environment)
    if there.nodes > 1 and environment.node == 0:
        environment = nodes.first_of(environment)
    with stop.interruptible():
        inputs = _inputs(job, environment, hashes, watched, verification)
        place = output.output_place(job.spec.output.uri, inputs, environment, tracker.heartbeat)
        scale = scales.as_begun(there, job, inputs, place)
        publisher = Publisher(job, inputs, place, hashes, scale.asked)
        notice = publisher.look()
        if publisher.published is not None:  # it is not reused for inputs that have changed since
            verification.finish(tracker.heartbeat)
        hashes.save()
    run = Run(
        run_id=environment.run_id,
        job=f"{job.kind} {job.metadata.name}",
        spec_digest=publisher.spec_digest,
        training_digest=publisher.training_digest,
        processes=scale.asked,
        started_at=began,
        jobset=environment.jobset,
        attempt=environment.attempt,
    )
    context = RunContext(job, workload, environment, inputs, run, scale)
    checkpoints = context.checkpoints(place, hashes, tracker)
    if publisher.published is not None:
        fence = place.fence(run)
        # A run that ended between publishing and tidying up leaves them; one that makes something else in this place goes on.
        if environment.node == 0 and not fence.shapes_other_checkpoints():
            fence.release()
            checkpoints.discard_all()
        tracker.finish(f"reused {place.uri}: it was made from the same settings and inputs")
        return _success(Reason.REUSED, publisher.published, inputs, tracker, dict(publisher.metrics))
    with stop.interruptible():
        gpus.must_have_gpus(job, environment, scale.processes)
    if notice:
        tracker.log(notice)
    if environment.node == 0:
        _take_place(place, run, checkpoints, tracker)
        if isinstance(getattr(job.spec, "parallelism", None), Parallelism):  # of a kind that trains
            context.attempts(place, tracker.log).begin()

    def verify() -> None:
        for line in verification.finish(tracker.heartbeat):
            tracker.log(f"verified: {line}")

    ending = _make(context, watched, verify)
    if ending.output is not None:
        tracker.finish(f"published {ending.output.uri} ({ending.output.digest})")
    return ending


def _inputs(
    job: Job, environment: Environment, hashes: HashCache, watched: Watched, verification: Verification
) -> Inputs:
    """Everything that the spec names, downloaded where it is far, and as it was when the job was applied."""

    def heartbeat() -> None:
        watched.tracker.heartbeat()
        watched.stop.check()  # in the threads that download, which no signal reaches

    inputs = sources.collect(job.spec, environment, hashes, heartbeat, verification)
    sources.must_be_as_published(inputs, noted(job.metadata.annotations))
    return inputs


def _take_place(place: OutputPlace, run: Run, checkpoints: Checkpoints, tracker: ProgressTracker) -> None:
    """From here on this run alone writes to the output and the checkpoints."""
    if not place.checkpoints_are_kept:
        tracker.log(
            "checkpoints of an s3:// output end with this pod: set cache.claimName, and a restart goes on from them"
        )
    fence = place.fence(run)
    place.prepare(fence.must_be_newer)
    checkpoints.acquire()
    fence.acquire()
    place.tidy()
    checkpoints.tidy()


# ---- the workload, in one process or in several ----


def _make(context: RunContext, watched: Watched, verify: Callable[[], None]) -> contract.Termination:
    scale = context.scale
    if scale.count == 1:
        machine = context.environment.node  # of several that work apart; else the only one
        return _run_workload(context, watched.stop, watched.tracker, DistributedContext(machine), verify)
    verify()
    share_processors(scale.processes)
    group = _join(context, watched) if scale.nodes > 1 else None
    if group is not None:
        context = context.in_run(group.run_id)
    watched.tracker.log(
        f"{scale.processes} processes train together"
        if group is None
        else f"node {group.index} of {group.count}, with {scale.processes} of {scale.count} processes that train together"
        + (": how far they are is told by node 0" if group.index else "")
    )
    with watched.watchdog.resting():  # each of them has its own
        from workloads.runtime import (
            launcher,
        )  # with multiprocessing and sockets: a job that is done starts no processes

        return launcher.run_workers(
            scale.processes, partial(_run_worker, context), context.environment, watched.tracker, watched.stop, group
        )


def _join(context: RunContext, watched: Watched) -> NodeGroup:
    """Meet the other nodes of the run, over checkpoints that all of them see."""
    tracker, stop = watched.tracker, watched.stop
    place = context.place(tracker.heartbeat)

    def heartbeat() -> None:
        tracker.heartbeat()
        stop.check()

    with stop.interruptible():
        patience = context.job.spec.failure_policy.hang_timeout_seconds
        group = NodeGroup.join(context.environment, context.scale.nodes, patience, tracker, stop)
        group.prove_shared(place.checkpoints, f"spec.output.uri {place.uri}", patience, heartbeat)
    return group


def _run_worker(context: RunContext, worker: Worker) -> contract.Termination:
    """What each of several processes does."""
    prepare_process()
    stop = Stop(context.job.spec.pod.termination_grace_period_seconds, signals=(signal.SIGTERM,))

    def work(tracker: ProgressTracker, _: Watchdog) -> contract.Termination:
        distributed = DistributedContext(
            worker.rank,
            worker.count,
            tracker.heartbeat,
            local_rank=worker.local_rank,
            node=context.environment.node,
        )
        return _run_workload(context, stop, tracker, distributed, verify=lambda: None)  # done before it was started

    with stop.listening():
        ending, error = guarded(context.job, context.environment, worker.display, work, worker.leave)
    worker.leave(ending, is_collateral=isinstance(error, exit_reports.SiblingLost))
    return ending


def _run_workload(
    context: RunContext,
    stop: Stop,
    tracker: ProgressTracker,
    distributed: DistributedContext,
    verify: Callable[[], None],
) -> contract.Termination:
    """To its published end."""
    runtime = Runtime(context, stop, tracker, distributed, verify)
    try:
        metrics = context.workload(context.job, runtime)
    except OSError:
        runtime.checkpoints.check()  # the run that took over has tidied away what this one was writing
        raise
    if not distributed.is_main:
        return exits.termination(Reason.SUCCEEDED, ExitCode.OK, "the first process publishes", tracker.current)
    if runtime.published is None:
        raise WorkloadError(
            f"{context.job.kind} ended without publishing its output: this is a bug in workloads/{context.job.workload}.py"
        )
    return _success(Reason.SUCCEEDED, runtime.published, context.inputs, tracker, metrics)


# ---- how it ends ----


def guarded(
    job: Job,
    environment: Environment,
    console: Display,
    work: Callable[[ProgressTracker, Watchdog], contract.Termination],
    write_hung: Callable[[contract.Termination], None],
) -> tuple[contract.Termination, BaseException | None]:
    """Do ``work``, watched; however it ends, that becomes a termination. Also returns the error that it was made of."""
    watchdog = Watchdog(job.spec.failure_policy.hang_timeout_seconds)
    tracker = ProgressTracker(console, watchdog.heartbeat)
    watchdog.start(lambda silence: write_hung(exits.failed(_hung(silence, tracker), tracker.current)))
    imports = _ImportHeartbeat(tracker)
    sys.meta_path.insert(0, imports)
    try:
        return work(tracker, watchdog), None
    except BaseException as error:  # noqa: BLE001 - every way to end has to reach the exit code and the termination message
        cause = exit_reports.recognize_lost_sibling(error)
        return exits.failed(cause, tracker.current, Places.of(job, environment)), cause
    finally:
        sys.meta_path.remove(imports)
        watchdog.stop()
        tracker.close()


class _ImportHeartbeat:
    """Finds no module, but counts every search as a sign of life: on a busy node the libraries take a minute to import."""

    def __init__(self, tracker: ProgressTracker) -> None:
        self._tracker = tracker

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        self._tracker.heartbeat()


def _hung(silence: float, tracker: ProgressTracker) -> Hung:
    at = f" at step {tracker.current.step}" if tracker.current.step is not None else ""
    return Hung(
        f"nothing moved for {silence:.0f} s while {tracker.current.stage.lower()}{at}: the stacks of all threads are in the log; "
        "if a step or an evaluation takes this long, raise failurePolicy.hangTimeoutSeconds"
    )


def _success(
    reason: Reason, published: contract.Published, inputs: Inputs, tracker: ProgressTracker, metrics: Metrics
) -> contract.Termination:
    return exits.termination(
        reason,
        ExitCode.OK,
        f"{published.uri} holds the {published.kind}",
        tracker.current.model_copy(update={"checkpoint": None}),
        metrics=metrics,
        output=published,
        resolved_inputs={
            field: contract.InputRead(uri=found.uri, digest=found.digest) for field, found in inputs.items()
        },
    )


# ---- what it stands on ----


@contextmanager
def progress_served(tracker: ProgressTracker, environment: Environment) -> Iterator[None]:
    """Progress is read over HTTP while the block runs, where a port was asked for and is free."""
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


def make_cache(environment: Environment) -> None:
    """Raises SpecError for a cache that cannot be made, or is there and cannot be written."""
    try:
        environment.cache.mkdir(parents=True, exist_ok=True)
        atomic.must_be_writable(environment.cache)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise SpecError(
            f"spec.cache: {sentence(error, environment.cache, 'write')}; or set {contract.ENV_CACHE} to a folder that it may write"
        ) from error
