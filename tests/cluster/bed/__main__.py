"""python -m tests.cluster.bed up|down|build|kubeconfig [--name NAME]"""

from __future__ import annotations

import argparse
import shutil
import sys

from tests.cluster.bed import binaries, debian, images
from tests.cluster.bed.cache import BedError, say
from tests.cluster.bed.node import Bed


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster.bed", description="A Kubernetes node on this machine."
    )
    parser.add_argument("command", choices=["up", "down", "build", "kubeconfig"], help="build: only fill the cache")
    parser.add_argument("--name", default="dev", help="several beds run beside each other (default: dev)")
    asked = parser.parse_args()
    try:
        COMMANDS[asked.command](asked.name)
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


def build(_: str) -> None:
    binaries.ensure([product.name for product in (*binaries.PRODUCTS, *binaries.ADDONS)])
    debian.node_tools()
    for role in images.ROLES:
        images.make(role)


def kubeconfig(name: str) -> None:
    print(Bed.attach(name).kubeconfig)


COMMANDS = {"up": up, "down": down, "build": build, "kubeconfig": kubeconfig}

if __name__ == "__main__":
    sys.exit(main())
