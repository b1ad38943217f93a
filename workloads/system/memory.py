"""Memory of this process and of the machine, in bytes."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
from pathlib import Path


class Peak:
    """The most memory that the process holds from here on: in a chain, earlier jobs of the same process may have held more."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): the high water mark starts anew

    def resident(self) -> int:
        """In main memory."""
        return high_water()

    def gpu(self) -> int | None:
        """On the first GPU; None where there is none."""
        import torch

        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def high_water() -> int:
    """The most main memory that this program has held. Not by getrusage where there is another way: Linux counts there what the process
    that started the program held."""
    found = re.search(r"VmHWM:\s+(\d+) kB", _text(Path("/proc/self/status")))
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


UNLIMITED = 1 << 60
"""Version 1 of control groups writes a number near 2^63 where there is no limit."""


def available(root: Path = Path("/")) -> int:
    """What this process may still take: the machine's, or less where its container has a limit.

    Pages of files are given back when they are in the way, so they count as free: a model that was just read fills the container's
    account with them.
    """
    groups = root / "sys/fs/cgroup"
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = re.search(r"MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo"))
    left = [
        int(found[1]) * 1024 if found else free,
        _left(groups / "memory.max", groups / "memory.current", groups / "memory.stat", ""),
        _left(
            groups / "memory/memory.limit_in_bytes",
            groups / "memory/memory.usage_in_bytes",
            groups / "memory/memory.stat",
            "total_",
        ),
    ]
    return max(0, min(size for size in left if size is not None))


def _left(limit: Path, used: Path, stat: Path, prefix: str) -> int | None:
    """None without a limit."""
    most, now = _text(limit).strip(), _text(used).strip()
    if not (most.isdigit() and now.isdigit()) or int(most) > UNLIMITED:
        return None
    files = re.findall(rf"^{prefix}(?:in)?active_file (\d+)$", _text(stat), re.MULTILINE)
    return int(most) - int(now) + sum(map(int, files))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
