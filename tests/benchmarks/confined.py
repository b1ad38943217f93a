"""A process that may not have more than so much memory: its cgroup says so, and what it took at most is measured."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")


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
        folder.rmdir()


def run(command: Sequence[str], cwd: Path, environ: Mapping[str, str], limit: int) -> tuple[int, int, bool]:
    """Exit code, most bytes that the process itself had resident, and whether the kernel held it to ``limit``. What it prints lies in ``cwd``."""
    with cgroup(limit) as group, (cwd / "printed").open("w") as out:
        enter = f'echo $$ > "{group}/cgroup.procs"; ' if group else ""
        line = ["sh", "-c", f'{enter}exec "$@"', "sh", *command]
        process = subprocess.Popen(line, cwd=cwd, env=dict(environ), stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage.ru_maxrss * 1024, group is not None
