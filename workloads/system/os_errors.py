"""What the system said of a file, in a sentence with the remedy: the one place where an OSError becomes words."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from workloads.errors import InputError
from workloads.system.describe import shown

FULL = (errno.ENOSPC, errno.EDQUOT)
"""No room on the volume, or in somebody's share of it."""
REMEDIES = {
    errno.ENOENT: "copy it there, or mend the link to it",
    errno.ELOOP: "its links lead in a circle: link to the file itself",
    errno.EEXIST: "a file, or a link to nothing, is in the way: remove it, or name another place",
    errno.ENOTDIR: "a file is in the way: remove it, or name another place",
    errno.ENAMETOOLONG: "shorten the name",
    errno.EIO: "the volume or its network reports an error: look at the volume, then copy the file again",
    errno.ESTALE: "the network volume was replaced under the job: mount it again",
    errno.EROFS: "the volume is mounted for reading only: mount it for writing, or name another",
}
"""What to do about an error number; of those that are missing, the system's own words say all there is."""


def unreadable(error: OSError, path: Path | str) -> InputError:
    """The error of an input that cannot be read."""
    return InputError(sentence(error, path, "read"))


def sentence(error: OSError, path: Path | str, verb: str) -> str:
    """``error`` of reading or writing (``verb``) a path, with the path that the system names where it names one, and the remedy."""
    name = shown(error.filename if isinstance(error.filename, str | bytes) else path)
    if error.errno in (errno.EACCES, errno.EPERM):
        # safetensors writes files that only their owner may read, which in a pod is seldom the user that trains.
        allow = "a+rX" if verb == "read" else "a+rwX"
        return f"{name} may not be {verb if verb == 'read' else 'written'} by user {os.getuid()}: chmod -R {allow} {name}, or change its owner"
    remedy = REMEDIES.get(error.errno or 0) if verb == "read" or error.errno != errno.ENOENT else "name another place"
    return f"cannot {verb} {name}: {error.strerror or error}" + (f": {remedy}" if remedy else "")


def is_below(path: object, folder: Path) -> bool:
    """Whether what an OSError names as its file lies in ``folder``."""
    return isinstance(path, str | bytes) and Path(os.path.realpath(os.fsdecode(path))).is_relative_to(
        os.path.realpath(folder)
    )
