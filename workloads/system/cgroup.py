"""What the container's control group allows this process, and what it did to it: version 2, and version 1 on older nodes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def cores(root: Path = Path("/")) -> int:
    """Processors that this process may use: those it is bound to, and no more than its quota; one at least."""
    bound = len(os.sched_getaffinity(0))
    share = quota(root)
    return bound if share is None else max(1, min(bound, int(share)))


def quota(root: Path = Path("/")) -> float | None:
    """Processors that the CPU limit lets this process use at once, the narrowest of all groups that it is in; None without a limit."""
    found = [
        share
        for folder in _folders(root, "cpu")
        if (share := _share(folder / "cpu.max", folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")) is not None
    ]
    return min(found, default=None)


def kills(root: Path = Path("/")) -> int:
    """Processes of this control group that the kernel has killed for want of memory; 0 where it cannot be read."""
    for folder in _folders(root, "memory"):
        for name in ("memory.events.local", "memory.events", "memory.oom_control"):
            for line in _text(folder / name).splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Where the groups of this process are described, the innermost first. Within a container the mount may begin at its own group, so
    the paths that the kernel names need not exist."""
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            top = mount
        elif controller in controllers.split(","):
            top = mount / controller
        else:
            continue
        inside = Path(path.strip("/"))
        yield from (top / part for part in (inside, *inside.parents) if (top / part).is_dir())


def _share(both: Path, quota: Path, period: Path) -> float | None:
    """A quota over its period: in one file in version 2, in two in version 1."""
    numbers = _text(both).split() or [_text(quota).strip(), _text(period).strip()]
    try:
        allowed, every = (int(number) for number in numbers)
    except ValueError:  # "max", or no such file
        return None
    return allowed / every if allowed > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
