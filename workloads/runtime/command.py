"""What every ``python -m workloads.<noun>`` does: from its arguments to a job, and from the job to an exit code."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from alpaca_operator.api import KINDS, Resource
from alpaca_operator.api.chain import links
from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.publication import publications
from alpaca_operator.api.resource import Job
from workloads.errors import WorkloadError
from workloads.manifest import chain, spec
from workloads.manifest.cli import help_text, parse
from workloads.runtime import exits
from workloads.runtime.progress import JsonLines
from workloads.system import credentials
from workloads.system.environment import is_pod

if TYPE_CHECKING:
    from workloads.runtime.runtime import Metrics, Runtime


def main(kind: type[Resource], run: Callable[[Any, Runtime], Metrics], argv: list[str] | None = None) -> int:
    """Run the job that ``argv`` describes; returns the exit code."""

    def execute_job(job: Any) -> int:
        from workloads.runtime.execute import execute

        ending = execute(job, run)
        if ending.exit_code != ExitCode.OK or is_pod(os.environ) or not publications(job.spec):
            return ending.exit_code
        from workloads.runtime import publishing

        return publishing.after_the_run(job, ending.output.digest if ending.output else None)

    return serve(kind, execute_job, argv)


def as_the_operator_wrote(file: str) -> list[Resource]:
    """The manifests of a file that the operator wrote for a pod, without what this image does not know."""
    text = spec.read_text(file)
    found = [document for document in spec.documents(text, file) if document.get("kind") in KINDS]
    return [spec.load_job(KINDS[one["kind"]], file, None, [], text, _tell_of_newer) for one in found]


def serve(
    kind: type[Resource], run: Callable[[Any], int], argv: list[str] | None = None, module: str | None = None
) -> int:
    """The same for a kind that has an end of its own: ``run`` returns the exit code. ``module`` is named by ``--help``."""
    arguments = sys.argv[1:] if argv is None else argv
    if any(argument in ("--help", "-h") for argument in arguments):
        print(help_text(kind, shutil.get_terminal_size((100, 24)).columns, module), end="")
        return 0
    try:
        credentials.check(os.environ)
        file, name, overrides = parse(kind, arguments)
        text = spec.read_text(file) if file else None  # once: standard input cannot be read again
        # In a pod the file is the operator's, which may be newer; on a laptop it is a person's, who may have misspelt a field.
        leave_out = _tell_of_newer if is_pod(os.environ) else None
        resource = _with_links(file, text, spec.load_job(kind, file, name, overrides, text, leave_out))
    except WorkloadError as error:
        return exits.exit_with(error, os.environ)
    return run(resource)


def _tell_of_newer(field: str) -> None:
    JsonLines(sys.stdout).log(
        f"{field} is left out: this image does not know it, and is older than the operator: set pod.image to a newer one to have it honoured"
    )


def _with_links(file: str | None, text: str | None, job: Resource) -> Resource:
    """The job with the output of every job that an input names by ``from``: those of the same file."""
    if not any(links(job)):
        return job
    jobs = [each for each in (spec.load_all(KINDS, file, text) if file else []) if isinstance(each, Job)]
    by_name = {(each.kind, each.metadata.name): each for each in jobs}
    resource, _ = chain.linked(job, lambda reference: by_name.get((reference.kind, reference.name)))
    return resource
