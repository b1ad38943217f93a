"""A process that may not have more than so much memory: its cgroup says so, and what it took at most is measured."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
ENDING_SECONDS = 60
"""In which processes that the confined one had started have to end after it."""
PARENT = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
with open(sys.argv[1], "w") as told:
    told.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""
"""A small process between: what a process had at most begins with what its parent has when it is started, and a test that ran others has much."""


@contextmanager
def cgroup(limit: int) -> Iterator[Path | None]:
    """A cgroup of ``limit`` bytes, with all that is kept of files; None where this user may make none."""
    is_unified = (GROUPS / "cgroup.controllers").exists()
    folder = (GROUPS if is_unified else GROUPS / "memory") / f"literary-alpaca-{os.getpid()}"
    try:
        if is_unified:
            (GROUPS / "cgroup.subtree_control").write_text("+memory")
        folder.mkdir()
        (folder / ("memory.max" if is_unified else "memory.limit_in_bytes")).write_text(str(limit))
    except OSError:
        if folder.exists():
            folder.rmdir()
        yield None
        return
    try:
        yield folder
    finally:
        deadline = time.monotonic() + ENDING_SECONDS
        while (folder / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        folder.rmdir()


def run(command: Sequence[str], cwd: Path, environ: Mapping[str, str], limit: int) -> tuple[int, int, bool]:
    """Exit code, most bytes that the process itself had resident, and whether the kernel held it to ``limit``. What it prints lies in ``cwd``."""
    with cgroup(limit) as group, (cwd / "printed").open("w") as out:
        enter = f'echo $$ > "{group}/cgroup.procs"; ' if group else ""
        told = cwd / "resident"
        line = ["sh", "-c", f'{enter}exec "$@"', "sh", sys.executable, "-S", "-c", PARENT, str(told), *command]
        code = subprocess.call(line, cwd=cwd, env=dict(environ), stdout=out, stderr=subprocess.STDOUT)
        return code, int(told.read_text(encoding="utf-8")) * 1024, group is not None
