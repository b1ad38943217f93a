"""What lies below a folder: one listing for digests and for every reader, so that what shapes a digest is what is read."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

HIDDEN = "as their names begin with a dot"
LISTED_ALREADY = "as they are links to folders that are read already"
NO_CONTENT = "as they are neither files nor folders"


@dataclass(frozen=True)
class Listing:
    """The files below a folder, by their relative paths with ``/``."""

    files: list[str]
    """Sorted. Linked folders count. A link to nothing is among them, so that whoever reads it says its name."""
    left_out: dict[str, str]
    """What else lies there, with the reason why it is no part of the contents; of a folder that is left out only its own name."""


def listed(folder: Path) -> Listing:
    """What lies below ``folder``. Each folder is listed once: where it is itself, else where the first link to it is.

    Raises OSError, with the name, for a folder that cannot be listed: what cannot be seen must not be taken for absent.
    """
    files: list[str] = []
    left_out: dict[str, str] = {}
    seen: set[str] = set()
    folders, links = deque([(folder, "")]), deque[tuple[Path, str]]()
    while folders or links:
        parent, prefix = folders.popleft() if folders else links.popleft()
        real = os.path.realpath(parent)
        if real in seen:
            left_out[prefix.rstrip("/")] = LISTED_ALREADY
            continue
        seen.add(real)
        for name in sorted(os.listdir(parent)):
            path, relative = parent / name, prefix + name
            if name.startswith("."):
                left_out[relative] = HIDDEN
            elif os.path.isdir(path):
                (links if path.is_symlink() else folders).append((path, f"{relative}/"))
            elif os.path.isfile(path) or path.is_symlink():
                files.append(relative)
            else:
                left_out[relative] = NO_CONTENT
    return Listing(sorted(files), left_out)


def listing(folder: Path) -> list[str]:
    """The files below ``folder``, as `listed` has them."""
    return listed(folder).files
