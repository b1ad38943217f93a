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
        self._reset = False
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): the high water mark starts anew
            self._reset = True

    def resident(self) -> int:
        """In main memory."""
        if self._reset:
            with contextlib.suppress(OSError):
                found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
                if found:
                    return int(found[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def gpu(self) -> int | None:
        """On the first GPU; None where there is none."""
        import torch

        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def available() -> int:
    """What this process may still take: the machine's, or less where its container has a limit."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        free = int(found[1]) * 1024 if found else free
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        free = min(free, limit - used)
    return max(0, free)
