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
from contextlib import contextmanager
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
from workloads.runtime.distributed import Ranks
from workloads.runtime.progress import Board, Display
from workloads.runtime.watchdog import Watchdog
from workloads.storage import sources
from workloads.storage.artifact import Publisher
from workloads.storage.checkpoints import Checkpoints, Run, now
from workloads.storage.hashing import Digests
from workloads.storage.sources import Inputs
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
        progress: Board,
        checkpoints: Checkpoints,
        publisher: Publisher,
        ranks: Ranks,
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
        self.ranks = ranks
        """The processes that train together. What is written, published and told, the first of them does."""
        self._publisher = publisher

    def resolved(self, policy: dict[str, Any]) -> None:
        """What ``Auto`` became: told to the user now, to the status, and to the artifact."""
        self.progress.update(resolved_policy=policy)
        self.progress.say("resolved: " + ", ".join(f"{name}={value}" for name, value in policy.items()))

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
        return exits.refused(error, os.environ)
    prepare_process()
    stop = Stop(job.spec.pod.termination_grace_period_seconds, above=chain)

    def tell(ending: contract.Termination) -> None:
        exits.tell(ending, environment.termination_log)

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
    work: Callable[[Board, Watchdog], contract.Termination],
    tell_hung: Callable[[contract.Termination], None],
) -> tuple[contract.Termination, BaseException | None]:
    """Do ``work``, watched; however it ends, that becomes a last word. Also returns the error that it was made of."""
    watchdog = Watchdog(job.spec.failure_policy.hang_timeout_seconds)
    board = Board(shown, watchdog.beat)
    watchdog.start(lambda silence: tell_hung(exits.failed(_hung(silence, board), board.current)))
    imports = _Imports(board)
    sys.meta_path.insert(0, imports)
    try:
        return work(board, watchdog), None
    except BaseException as error:  # noqa: BLE001 - every way to end has to reach the exit code and the last word
        told = launcher.named(error)
        return exits.failed(told, board.current, _written(job, environment)), told
    finally:
        sys.meta_path.remove(imports)
        watchdog.stop()
        board.close()


class _Imports:
    """Finds no module, but counts every search as a sign of life: on a busy node the libraries take a minute to import."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        self._board.beat()


def _work(
    job: Resource,
    run: Callable[[Any, Runtime], Metrics],
    environment: Environment,
    stop: Stop,
    board: Board,
    watchdog: Watchdog,
) -> contract.Termination:
    _serve(board, environment)
    _make_cache(environment)
    board.update(stage="Loading")

    def beat() -> None:
        board.beat()
        stop.check()  # in the threads that download, which no signal reaches

    share_processors()
    count = launcher.processes(job, environment)
    known = Digests(environment.cache / "digests.json", board.beat)
    with stop.at_once():
        inputs = sources.collect(job.spec, environment, known, beat)
        sources.must_be_as_published(inputs, noted(job.metadata.annotations))
        place = sources.output_place(job.spec.output.uri, inputs, environment, board.beat)
        publisher = Publisher(job, inputs, place, known, count)
        notice = publisher.look()
        known.remember()
    this = Run(
        run_id=environment.run_id,
        job=f"{job.kind} {job.metadata.name}",
        spec_digest=publisher.spec_digest,
        started_at=now(),
    )
    part = Part(job, run, environment, inputs, this, count)
    checkpoints = part.checkpoints(place, known, board)
    if publisher.published is not None:
        place.fence(this).lift()
        checkpoints.discard_all()  # a run that ended between publishing and tidying up leaves them
        board.finish(f"reused {place.uri}: it was made from the same settings and inputs")
        return _ended_well(Reason.REUSED, publisher, inputs, board, dict(publisher.metrics))
    with stop.at_once():
        launcher.must_have_gpus(job, environment, count)
    if notice:
        board.say(notice)
    if not place.checkpoints_are_kept:
        board.say(
            "checkpoints of an s3:// output end with this pod: set cache.claimName, and a restart goes on from them"
        )
    place.prepare()
    place.tidy()
    checkpoints.tidy()
    checkpoints.take()
    place.fence(this).take()
    if count == 1:
        ending = _perform(part, stop, board, Ranks())
    else:
        share_processors(count)
        board.say(f"{count} processes train together")
        with watchdog.resting():
            ending = launcher.together(count, partial(_take_part, part), environment, board, stop)
    if ending.output is not None:
        board.finish(f"published {ending.output.uri} ({ending.output.digest})")
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

    def checkpoints(self, place: sources.OutputPlace, known: Digests, board: Board) -> Checkpoints:
        return Checkpoints(
            place.checkpoints,
            self.this,
            known,
            say=board.say,
            written=lambda checkpoint: board.update(checkpoint=checkpoint),
            uri=f"{place.uri}.checkpoints",
        )


def _take_part(part: Part, member: launcher.Member) -> contract.Termination:
    """What each of several processes does."""
    prepare_process()
    stop = Stop(part.job.spec.pod.termination_grace_period_seconds, signals=(signal.SIGTERM,))

    def work(board: Board, _: Watchdog) -> contract.Termination:
        return _perform(part, stop, board, Ranks(member.rank, member.count, board.beat))

    with stop.listening():
        ending, error = _guarded(part.job, part.environment, member.display, work, member.leave)
    member.leave(ending, is_collateral=isinstance(error, launcher.SiblingLost))
    return ending


def _perform(part: Part, stop: Stop, board: Board, ranks: Ranks) -> contract.Termination:
    """Run the workload, to its published end."""
    job, inputs = part.job, part.inputs
    known = Digests(part.environment.cache / "digests.json", board.beat)
    place = sources.output_place(job.spec.output.uri, inputs, part.environment, board.beat)
    publisher = Publisher(job, inputs, place, known, part.count)
    publisher.guard(place.fence(part.this))
    checkpoints = part.checkpoints(place, known, board)
    try:
        metrics = part.run(job, Runtime(job, part.environment, inputs, stop, board, checkpoints, publisher, ranks))
    except OSError:
        checkpoints.check()  # the run that took over has tidied away what this one was writing
        raise
    if not ranks.first:
        return exits.last_word(Reason.SUCCEEDED, ExitCode.OK, "the first process publishes", board.current)
    if publisher.published is None:
        raise WorkloadError(
            f"{job.kind} ended without publishing its output: this is a bug in workloads/{job.workload}.py"
        )
    known.remember()
    return _ended_well(Reason.SUCCEEDED, publisher, inputs, board, metrics)


def _ended_well(
    reason: Reason, publisher: Publisher, inputs: Inputs, board: Board, metrics: Metrics | None = None
) -> contract.Termination:
    assert publisher.published is not None
    return exits.last_word(
        reason,
        ExitCode.OK,
        f"{publisher.published.uri} holds the {publisher.published.kind}",
        board.current.model_copy(update={"checkpoint": None}),
        metrics=metrics,
        output=publisher.published,
        resolved_inputs={field: {"uri": found.uri, "digest": found.digest} for field, found in inputs.items()},
    )


def _hung(silence: float, board: Board) -> Hung:
    at = f" at step {board.current.step}" if board.current.step is not None else ""
    return Hung(
        f"nothing moved for {silence:.0f} s while {board.current.stage.lower()}{at}: the stacks of all threads are in the log; "
        "if a step or an evaluation takes this long, raise failurePolicy.hangTimeoutSeconds"
    )


def _serve(board: Board, environment: Environment) -> None:
    if environment.progress_address is None:
        return
    host, port = environment.progress_address
    try:
        port = board.serve(host, port)
    except OSError as error:
        board.say(f"/progress is not served: port {port}: {error.strerror}")
        return
    if not environment.in_pod:
        board.say(f"progress is served at http://{host}:{port}/progress")


def _written(job: Resource, environment: Environment) -> tuple[Path, ...]:
    """Folders that a run writes to."""
    uri = job.spec.output.uri
    output = () if uri.startswith("s3://") else (sources.local_path(uri, environment),)
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
