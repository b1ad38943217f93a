"""What a job has made, pushed to the places of its ``publish``: ``python -m workloads.publish FILE... [--name NAME]``.

Nothing is trained. Every job of the manifests that names places is pushed, once the jobs that those wait for have ended well.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from alpaca_operator.api import KINDS, contract
from alpaca_operator.api.publication import publications
from alpaca_operator.api.resource import Job
from workloads.errors import SpecError, WorkloadError
from workloads.manifest import spec
from workloads.runtime import command, exits
from workloads.system.environment import is_pod


def main(argv: Sequence[str] | None = None) -> int:
    """Pushes; returns the exit code of the first job that could not be pushed, or 0."""
    options = _parser().parse_args(argv)
    try:
        jobs = [job for file in options.files for job in _jobs(file)]
        chosen = [job for job in jobs if publications(job.spec) and options.name in (None, job.metadata.name)]
        if not chosen:
            which = f"called {options.name} " if options.name else ""
            raise SpecError(f"{' '.join(options.files)}: no job {which}there names a place in spec.publish: add one")
        return _push(chosen, jobs)
    except WorkloadError as error:
        return exits.exit_with(error, os.environ)


def _push(chosen: Sequence[Job], jobs: Sequence[Job]) -> int:
    from workloads.runtime import publishing

    known = {(job.kind, job.metadata.name): job for job in jobs}
    for job in chosen:
        if is_pod(os.environ):  # the operator has seen to the gates
            places, digest = _asked(job), os.environ.get(contract.ENV_PUSH_DIGEST) or None
        else:
            publishing.must_have_passed(job, known)
            places, digest = list(range(len(publications(job.spec)))), None
        ending = publishing.publish(job, places, digest=digest)
        if ending.exit_code != contract.ExitCode.OK:
            return ending.exit_code
    return 0


def _asked(job: Job) -> list[int]:
    text = os.environ.get(contract.ENV_PUSH, "")
    count = len(publications(job.spec))
    numbers = text.split(",")
    if not all(number.isascii() and number.isdigit() and int(number) < count for number in numbers):
        raise SpecError(
            f"{contract.ENV_PUSH} is {text!r}, and spec.publish names {count} places: give their numbers, from 0, with commas between"
        )
    return [int(number) for number in numbers]


def _jobs(file: str) -> list[Job]:
    if is_pod(os.environ):
        return [job for job in command.as_the_operator_wrote(file) if isinstance(job, Job)]
    return [job for job in spec.load_all(KINDS, file) if isinstance(job, Job)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workloads.publish",
        description="Pushes what jobs have made to the places of their spec.publish. What is there already is not sent again.",
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="manifests that kubectl apply takes; - is standard input"
    )
    parser.add_argument("--name", metavar="NAME", help="push what this job has made, and nothing else")
    return parser


if __name__ == "__main__":
    sys.exit(main())
