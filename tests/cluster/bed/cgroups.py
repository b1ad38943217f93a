"""One cgroup per bed, under which the kubelet puts all pods. Both of the kernel's interfaces are known."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.bed.cluster import until

ROOT = Path("/sys/fs/cgroup")


def make(tag: str) -> None:
    for hierarchy in _hierarchies():
        (hierarchy / tag).mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # Version 1 makes a cpuset empty, and no process can be put into such a one.
            if (hierarchy / setting).exists() and not _unified():
                (hierarchy / tag / setting).write_text((hierarchy / setting).read_text())
    if _unified():
        wanted = " ".join(f"+{name}" for name in (ROOT / "cgroup.controllers").read_text().split())
        for folder in (ROOT, ROOT / tag):
            (folder / "cgroup.subtree_control").write_text(wanted)


def remove(tag: str) -> None:
    """After the last process in it is gone; the kernel needs a moment to notice."""
    until(lambda: all(_removed(hierarchy / tag) for hierarchy in _hierarchies()), f"the cgroup {tag} to be empty")


def left(tag: str) -> list[Path]:
    return [hierarchy / tag for hierarchy in _hierarchies() if (hierarchy / tag).exists()]


def _removed(folder: Path) -> bool:
    """A cgroup is removed with rmdir alone, from the leaves; the files in it are the kernel's."""
    if not folder.exists():
        return True
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink() and not _removed(child):
            return False
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _unified() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def _hierarchies() -> list[Path]:
    """Version 2 has one. Version 1 has one per controller or group of them, where a controller may be a link to its group, and
    often an empty version 2 beside them, in which the container runtime makes its folder too."""
    if _unified():
        return [ROOT]
    return sorted({folder.resolve() for folder in ROOT.iterdir() if (folder / "cgroup.procs").exists()})
