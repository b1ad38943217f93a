"""python -m tests.cluster.bed up|down|kubeconfig [--name NAME], or build [PART...]"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence

from tests.cluster.bed.cache import BedError, say
from tests.cluster.bed.node import Bed
from tests.cluster.bed.parts import PARTS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster.bed", description="A Kubernetes node on this machine."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in NAMED:
        commands.add_parser(command).add_argument(
            "--name", default="dev", help="several beds run beside each other (default: dev)"
        )
    building = commands.add_parser("build", help="only fill the cache")
    building.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    asked = parser.parse_args()
    try:
        if asked.command == "build":
            build(asked.parts)
        else:
            NAMED[asked.command](asked.name)
    except BedError as error:
        print(f"bed: {error}", file=sys.stderr)
        return 1
    return 0


def up(name: str) -> None:
    bed = Bed.up(name)
    for role, image in bed.images.items():
        say(f"image {role}: {image}")
    if not shutil.which("kubectl"):
        say(f"kubectl: {bed.kubectl_command}")
    print(f"export KUBECONFIG={bed.kubeconfig}")


def down(name: str) -> None:
    Bed(name).down()


def build(parts: Sequence[str]) -> None:
    if unknown := [part for part in parts if part not in PARTS]:
        raise BedError(f"no part is called {', '.join(unknown)}: there are {', '.join(PARTS)}")
    for part in parts or PARTS:
        began = time.monotonic()
        PARTS[part]()
        say(f"{part}: built, {time.monotonic() - began:.0f} s")


def kubeconfig(name: str) -> None:
    print(Bed.attach(name).kubeconfig)


NAMED = {"up": up, "down": down, "kubeconfig": kubeconfig}

if __name__ == "__main__":
    sys.exit(main())
