"""Where a run reads and writes, and so whose error one of the system's is: an input's, a place's, or nobody's that the user could mend."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from alpaca_operator.api.resource import Job
from alpaca_operator.api.sources import sources
from workloads.errors import DiskFull, InputError, SpecError, WorkloadError
from workloads.storage.uri import local_path
from workloads.system.describe import shown
from workloads.system.environment import Environment
from workloads.system.os_errors import FULL, is_below, sentence

FULL_SIGNS = ("no space left on device", "disk quota exceeded", "not enough free space", "os error 28", "os error 122")
"""What libraries say of a full disk, in lower case, where they raise an error of their own."""
OF_THE_PROCESS = (errno.EMFILE, errno.ENFILE, errno.EINTR, errno.EAGAIN)
"""Errors that name a file and are not about it."""


@dataclass(frozen=True)
class Places:
    """By the field and the uri that name each."""

    read: Mapping[str, Path] = field(default_factory=dict)
    written: Mapping[str, Path] = field(default_factory=dict)
    keeps_checkpoints: bool = False
    """Whether the job has a training, with as many checkpoints as it says."""

    @classmethod
    def of(cls, job: Job, environment: Environment) -> Places:
        """Those of a job; of addresses that are no paths, the cache that they are brought into."""
        output = dict(_local("output", job.spec.output.uri, environment))
        return cls(
            read={
                where: path
                for name, source in sources(job.spec)
                for where, path in _local(name, source.uri or "s3://", environment)
            },
            written={
                **{where: path.parent for where, path in output.items()},  # what is being written lies beside it
                "spec.cache": environment.cache,
                "temporary files": Path(tempfile.gettempdir()),
            },
            keeps_checkpoints=hasattr(getattr(job.spec, "training", None), "keep_checkpoints"),
        )

    def explain(self, error: BaseException) -> WorkloadError | None:
        """An error of the system in our own words; None for one of another kind, or about no place of the job."""
        if _is_full(error):
            return DiskFull(self._full(error))
        if not isinstance(error, OSError) or error.errno is None or error.errno in OF_THE_PROCESS:
            return None
        reading, writing = self._around(error.filename, self.read), self._around(error.filename, self.written)
        if reading is not None and (writing is None or is_below(str(self.read[reading]), self.written[writing])):
            return InputError(f"{reading}: {sentence(error, self.read[reading], 'read')}")
        if writing is not None and error.errno != errno.ENOENT:  # what somebody removed is made again by the next run
            return SpecError(f"{writing}: {sentence(error, self.written[writing], 'write')}")
        return None

    def _around(self, filename: object, places: Mapping[str, Path]) -> str | None:
        """The innermost of ``places`` that the file lies in."""
        around = [where for where, path in places.items() if is_below(filename, path)]
        return max(around, key=lambda where: len(os.path.realpath(places[where])), default=None)

    def _full(self, error: BaseException) -> str:
        named = getattr(error, "filename", None)
        candidates = [Path(os.fsdecode(named))] if isinstance(named, str | bytes) else list(self.written.values())
        free = {path: shutil.disk_usage(path).free for path in map(_existing, candidates)}
        where = min(free, key=lambda path: free[path]) if free else None
        on = f" on the volume of {shown(where)} ({free[where] // 2**20} MiB free)" if where is not None else ""
        field = self._around(str(where), self.written)
        what = f" for {field}" if field is not None else ""
        remedies = ["enlarge the volume", "remove what is not needed"]
        if self.keeps_checkpoints:
            remedies.append("lower training.keepCheckpoints")
        return f"no space left{on}{what}: {', '.join(remedies[:-1])}, or {remedies[-1]}"


NOWHERE = Places()


def _local(name: str, uri: str, environment: Environment) -> Iterator[tuple[str, Path]]:
    """The field with its path, unless the address is none: the run itself says what is wrong with that."""
    where = f"spec.{name}.uri: {uri}"
    if not uri.startswith(("hf://", "ms://", "s3://", "oci://")):
        try:
            yield where, local_path(uri, environment, where)
        except SpecError:
            return


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return any(sign in str(error).lower() for sign in FULL_SIGNS)


def _existing(path: Path) -> Path:
    """The folder ``path`` lies in, or the nearest above it that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
