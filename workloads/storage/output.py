"""Where an output goes: a folder on a file system, or a bucket."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath, PurePosixPath
from typing import Protocol

from alpaca_operator.api import contract
from workloads.errors import SpecError
from workloads.storage.checkpoints import Fence, Run
from workloads.storage.hashing import HashCache
from workloads.storage.local import LocalFolder
from workloads.storage.sources import Input
from workloads.system.environment import Environment


class OutputPlace(Protocol):
    """The place that an output goes to."""

    uri: str
    staging: Path
    """Where the result is written before it is published; the same file system as the final place, where that is local."""
    checkpoints: Path
    checkpoints_are_kept: bool
    """Whether they outlive this pod."""

    def fence(self, run: Run) -> Fence:
        """What keeps a run that was overtaken from publishing. It lies where the output does: runs need share nothing else."""

    def prepare(self, must_be_newer: Callable[[], None]) -> None:
        """Make sure, before hours of work, that a result can be put there. Raises SpecError when it cannot, and what ``must_be_newer`` raises: it
        is asked before anything is moved that a younger run may be writing."""

    def tidy(self) -> None:
        """Mend and remove what interrupted runs left behind."""

    def newest_run(self) -> Run | None:
        """The run that took the place last and has not published its result."""

    def artifact(self) -> contract.Artifact | None:
        """The artifact that lies there."""

    def damage(self, artifact: contract.Artifact, hashes: HashCache) -> str | None:
        """What is wrong with its files; None when they are whole."""

    def is_taken(self) -> bool:
        """Something lies there, artifact or not."""

    def holds_artifact_file(self) -> bool:
        """An artifact.json lies there, whether it can be read or not."""

    def publish(self, folder: Path) -> None:
        """Put ``folder``, artifact.json included, in place. What `reject` left beside it goes: it speaks of another result."""

    def reject(self, folder: Path) -> str:
        """Put ``folder``, the report on a result that is not published, beside the place; returns its URI."""


def output_place(
    uri: str, inputs: Mapping[str, Input], environment: Environment, heartbeat: Callable[[], None]
) -> OutputPlace:
    """Where the output goes. Raises SpecError for a place that cannot take one."""
    if uri.startswith("s3://"):
        from workloads.storage import s3

        bucket = s3.Bucket(uri, environment, heartbeat)
        _must_not_touch_inputs(
            PurePosixPath(bucket.uri),
            uri,
            {
                field: (found.uri, PurePosixPath(found.uri))
                for field, found in inputs.items()
                if found.uri.startswith("s3://")
            },
        )
        return bucket
    place = LocalFolder(uri, environment, heartbeat)
    _must_not_touch_inputs(
        _real(place.path), uri, {field: (found.uri, _real(found.path)) for field, found in inputs.items()}
    )
    return place


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve knows no way out of links in a circle


def _must_not_touch_inputs(output: PurePath, uri: str, inputs: Mapping[str, tuple[str, PurePath]]) -> None:
    """An output in an input changes what the job was made from; an input in an output is replaced with it."""
    for field, (input_uri, path) in inputs.items():
        inside, outside = output.is_relative_to(path), path.is_relative_to(output)
        if inside or outside:
            relation = "is" if inside and outside else "lies in" if inside else "contains"
            raise SpecError(
                f"spec.output.uri: {uri} {relation} the input spec.{field} ({input_uri}): name another folder"
            )
