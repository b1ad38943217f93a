"""``python -m workloads FILE...``: run the jobs of manifests in this process, one after the other, without a cluster."""

from __future__ import annotations

import importlib
import os
import sys

from alpaca_operator.api import KINDS, Resource
from workloads import endings, spec
from workloads.errors import SpecError, WorkloadError


def main(argv: list[str] | None = None) -> int:
    """Run every job in the files, in order, up to the first that fails; returns its exit code."""
    files = sys.argv[1:] if argv is None else argv
    if not files or files[0] in ("--help", "-h"):
        print(help_text(), end="")
        return 0
    try:
        jobs = [job for file in files for job in _jobs(file)]
    except WorkloadError as error:
        return endings.refuse(error, os.environ)
    for job in jobs:
        code = _run(job)
        if code != 0:
            return code
    return 0


def help_text() -> str:
    """The nouns, and what each does."""
    width = max(len(kind.workload) for kind in KINDS.values())
    nouns = "".join(
        f"  {kind.workload:<{width}}  {name}: {' '.join((kind.__doc__ or '').split())}\n"
        for name, kind in KINDS.items()
    )
    return (
        "usage: python -m workloads FILE...\n"
        "       python -m workloads.<noun> [FILE] [--name NAME] [--field value]...\n\n"
        "The first runs every job in the manifests, in order, as kubectl apply would on a cluster; what is there already is\n"
        "reused. The second runs one, with any field of its spec as a flag; --help lists them.\n\n"
        f"{nouns}"
    )


def _jobs(file: str) -> list[Resource]:
    if file.startswith("-") and file != "-":
        raise SpecError(f"{file}: flags belong to one job: python -m workloads.<noun> FILE {file} …")
    jobs = spec.load_all(KINDS, file)
    if not jobs:
        raise SpecError(f"{file} holds no job: it needs a document of kind {' or '.join(KINDS)}")
    return jobs


def _run(job: Resource) -> int:
    from workloads.runtime import execute

    print(f"{job.kind} {job.metadata.name}", file=sys.stderr)
    return execute(job, importlib.import_module(f"workloads.{job.workload}").run)


if __name__ == "__main__":
    sys.exit(main())
