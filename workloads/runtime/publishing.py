"""A run that pushes what a job has made, from its start to its exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from alpaca_operator.api import contract
from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.publication import publications
from alpaca_operator.api.resource import Job
from alpaca_operator.api.status import Reason
from workloads.errors import SpecError, WorkloadError
from workloads.publication import push
from workloads.publication.place import PlaceUnreachable, PushRefused
from workloads.runtime import execute, exits
from workloads.runtime.console import display, prepare_process
from workloads.runtime.progress import ProgressTracker
from workloads.runtime.runtime import HASHES
from workloads.runtime.watchdog import Watchdog
from workloads.storage import sources
from workloads.storage.hashing import HashCache
from workloads.storage.output import output_place
from workloads.system.environment import Environment
from workloads.system.signals import Stop

Known = Mapping[tuple[str, str], Job]
"""Jobs by kind and name."""
INTERRUPTED = "stopped while pushing: run again to go on"


def publish(job: Job, places: Sequence[int], *, digest: str | None = None) -> contract.Termination:
    """Push what lies at the output of ``job``, which is ``digest`` where that is given, to those of its places that have these numbers, and
    say how it ended, on stderr and to the kubelet."""
    try:
        environment = Environment.read(os.environ)
    except WorkloadError as error:
        return exits.refuse_to_start(error, os.environ)
    prepare_process()
    stop = Stop(job.spec.pod.termination_grace_period_seconds)

    def write(ending: contract.Termination) -> None:
        exits.write_termination(ending, environment.termination_log)

    def work(tracker: ProgressTracker, _: Watchdog) -> contract.Termination:
        execute.make_cache(environment)
        tracker.update(stage="Pushing")
        hashes = HashCache(environment.cache / HASHES, tracker.heartbeat)
        with stop.interruptible(INTERRUPTED):
            pushed = push.push(job, places, environment, hashes, tracker.log, digest=digest)
        hashes.save()
        message = f"{job.spec.output.uri} lies at {', '.join(one.uri for one in pushed)}"
        tracker.finish(message)
        return exits.termination(Reason.PUBLISHED, ExitCode.OK, message, tracker.current, publications=pushed)

    with display(environment.in_pod) as console, stop.listening():
        ending, cause = execute.guarded(job, environment, console, work, write)
    if isinstance(cause, PushRefused | PlaceUnreachable) and cause.publications:
        ending = ending.model_copy(update={"publications": list(cause.publications)})
    write(ending)
    return ending


def after_the_run(job: Job, digest: str | None) -> int:
    """What a job has just made, pushed to the places that wait for no other job; the exit code. In a cluster a pod of its own does that."""
    due = []
    for number, place in enumerate(publications(job.spec)):
        if not place.after:
            due.append(number)
            continue
        gates = ", ".join(f"{gate.from_.kind} {gate.from_.name}" for gate in place.after)
        print(
            f"not pushed to {place.uri}, which waits for {gates}: python -m workloads.publish FILE, once they have ended well",
            file=sys.stderr,
        )
    return publish(job, due, digest=digest).exit_code if due else ExitCode.OK


def must_have_passed(job: Job, known: Known) -> None:
    """Raises SpecError for the first gate of a place that has not ended well, or has measured another model than lies at the output."""
    environment = Environment.read(os.environ)
    made = output_place(job.spec.output.uri, sources.Inputs(), environment, lambda: None).artifact()
    for number, one in enumerate(publications(job.spec)):
        for gate_number, gate in enumerate(one.after):
            field = f"spec.publish[{number}].after[{gate_number}].from"
            who = f"{gate.from_.kind} {gate.from_.name}"
            found = known.get((gate.from_.kind, gate.from_.name))
            if found is None:
                raise SpecError(f"{field} names {who}, which none of the files holds: add its manifest to them")
            result = output_place(found.spec.output.uri, sources.Inputs(), environment, lambda: None).artifact()
            if result is None:
                raise SpecError(f"{field} names {who}, which has not ended well: run it first")
            measured = [read.digest for read in result.inputs.values() if read.uri == job.spec.output.uri]
            if made is not None and measured and made.digest not in measured:
                raise SpecError(
                    f"{field}: {who} measured {measured[0]}, and {made.digest} lies at {job.spec.output.uri} now: run it again"
                )
