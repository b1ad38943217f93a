"""``python -m workloads FILE...``: run the jobs of manifests in this process, in the order of their inputs, without a cluster."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from alpaca_operator.api import KINDS, Resource
from alpaca_operator.api.resource import Job
from workloads.errors import SpecError, WorkloadError
from workloads.manifest import chain, spec
from workloads.runtime import chain_run, exits
from workloads.storage import lineage
from workloads.system.environment import Environment


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a chain, or prints a lineage; returns the exit code of the first step that failed, or 0."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["lineage"]:
            return _lineage(arguments[1:])
        return _chain(arguments)
    except WorkloadError as error:
        return exits.exit_with(error, os.environ)


def _chain(arguments: Sequence[str]) -> int:
    parser = _parser()
    if not arguments:
        parser.print_help()
        return 0
    options = parser.parse_args(arguments)
    found = [each for file in options.files for each in _resources(file)]
    steps = chain.steps([each for each in found if isinstance(each, Job)])
    served = [each for each in found if not isinstance(each, Job)]
    chosen = steps
    if options.only:
        named = [each for each in served if each.metadata.name == options.only]
        if named and options.only not in {step.job.metadata.name for step in steps}:
            raise SpecError(f"--only {options.only}: {_how_it_serves(named[0], options.files)}")
        chosen, served = chain.only(steps, options.only), []
    if options.dry_run:
        chain_run.foresee(steps, Environment.read(os.environ))
        if chosen:
            print(chain_run.table(chosen))
        _say_what_serves(served, options.files)
        return 0
    code = chain_run.run(chosen) or chain_run.publish(chosen, alone=bool(options.only))
    steps = chosen
    if len(steps) > 1:
        print(f"\n{chain_run.table(steps)}", file=sys.stderr)
    if code == 0:
        _say_what_serves(served, options.files)
    return code


def _say_what_serves(served: Sequence[Resource], files: Sequence[str]) -> None:
    """What serves does not end, so it is no step."""
    for each in served:
        print(_how_it_serves(each, files), file=sys.stderr)


def _how_it_serves(served: Resource, files: Sequence[str]) -> str:
    name = served.metadata.name
    return f"{served.kind} {name} is not run by this command: python -m workloads.{served.workload} {' '.join(files)} --name {name}"


def _lineage(arguments: Sequence[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(
            "usage: python -m workloads lineage PATH\n\nPrints what the artifact in the folder PATH was made from, as a tree."
        )
        return 0 if arguments in (["-h"], ["--help"]) else 64
    print(lineage.tree(lineage.read(Path(arguments[0])), arguments[0]))
    return 0


def _parser() -> argparse.ArgumentParser:
    width = max(len(kind.workload) for kind in KINDS.values())
    nouns = "\n".join(
        f"  {kind.workload:<{width}}  {name}: {' '.join((kind.__doc__ or '').split())}" for name, kind in KINDS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m workloads",
        usage="python -m workloads FILE... [--only NAME] [--dry-run]\n"
        "       python -m workloads lineage PATH\n"
        "       python -m workloads.<noun> [FILE] [--name NAME] [--field value]...",
        description="Runs every job in the manifests, each after those whose outputs it reads. What is there already is reused, so "
        "that a chain that stopped goes on where it was; what was changed is made again, and what depends on it.",
        epilog=f"The last form runs one job, with any field of its spec as a flag:\n{nouns}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="manifests that kubectl apply takes; - is standard input"
    )
    parser.add_argument("--only", metavar="NAME", help="run this job alone; the others' outputs must be there")
    parser.add_argument("--dry-run", action="store_true", help="print the order, and what would be reused; run nothing")
    return parser


def _resources(file: str) -> list[Resource]:
    found = spec.load_all(KINDS, file)
    if not found:
        raise SpecError(f"{file} holds no job: it needs a document of kind {' or '.join(KINDS)}")
    return found


if __name__ == "__main__":
    sys.exit(main())
