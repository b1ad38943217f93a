"""An output on a file system."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from alpaca_operator.api import contract
from workloads.errors import InputError, SpecError
from workloads.storage.checkpoints import FENCE, Fence, FileFence, Run
from workloads.storage.contents import contents_differ, read_artifact, sizes_differ
from workloads.storage.hashing import HashCache
from workloads.storage.uri import REJECTED, local_path
from workloads.system import atomic
from workloads.system.environment import Environment
from workloads.system.os_errors import FULL, sentence


class LocalFolder:
    """An output on a file system: written to a sibling and renamed."""

    def __init__(self, uri: str, environment: Environment, heartbeat: Callable[[], None]) -> None:
        self.uri = uri
        self._heartbeat = heartbeat
        path = local_path(uri, environment, f"spec.output.uri: {uri}")
        # The folder is replaced, not the link to it.
        self.path = Path(os.path.realpath(path)) if path.is_symlink() else path
        self._run_id = environment.run_id
        if uri.startswith("pvc://") and self.path.parent == environment.claims:
            raise SpecError(
                f"spec.output.uri: {uri} is the root of its claim, which cannot be replaced at once: name a folder in it, such as {uri.rstrip('/')}/result"
            )
        if environment.in_pod and uri.startswith("pvc://"):
            claim = environment.claims / uri.removeprefix("pvc://").split("/")[0]
            if not claim.is_dir():
                raise InputError(f"spec.output.uri: {uri}: the claim is not mounted at {claim}")
        self.staging = self.path.with_name(f".{self.path.name}.{self._run_id}.partial")
        self.checkpoints = self.path.with_name(f"{self.path.name}.checkpoints")
        self.checkpoints_are_kept = True

    def fence(self, run: Run) -> Fence:
        return FileFence(self.checkpoints / FENCE, run)

    def prepare(self, must_be_newer: Callable[[], None]) -> None:
        """Raises SpecError when nothing can be written there, or what is there cannot be replaced."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            probe = self.staging.with_suffix(".probe")
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            if error.errno in FULL:
                raise
            raise SpecError(f"spec.output.uri: {self.uri}: {sentence(error, self.path.parent, 'write')}") from error
        must_be_newer()
        for folder in (self.path, self.checkpoints, self._rejected):
            self._must_be_replaceable(folder)

    def _must_be_replaceable(self, folder: Path) -> None:
        try:
            atomic.put_aside_and_back(folder, self._run_id)
        except OSError as error:
            raise SpecError(
                f"spec.output.uri: {self.uri}: {folder} cannot be replaced at once, as publishing does ({error.strerror}; is it a mount point?): "
                f"name a folder in it, such as {self.uri.rstrip('/')}/result"
            ) from error

    def tidy(self) -> None:
        atomic.recover(self.path)
        for leftover in (
            *atomic.stale_siblings(self.path, "partial"),
            *atomic.stale_siblings(self.path, "discarded"),
            *atomic.stale_siblings(self.checkpoints, "discarded"),
            *atomic.stale_siblings(self._rejected, "discarded"),
            *atomic.stale_siblings(self._rejected, "replaced"),
        ):
            shutil.rmtree(leftover, ignore_errors=True)

    def newest_run(self) -> Run | None:
        return FileFence.read(self.checkpoints / FENCE)

    def artifact(self) -> contract.Artifact | None:
        atomic.recover(self.path)
        return read_artifact(self.path)

    def damage(self, artifact: contract.Artifact, hashes: HashCache) -> str | None:
        return sizes_differ(self.path, artifact.files) or contents_differ(self.path, artifact.files, hashes)

    def is_taken(self) -> bool:
        return self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir()))

    def holds_artifact_file(self) -> bool:
        return (self.path / contract.ARTIFACT_FILE).is_file()

    def publish(self, folder: Path) -> None:
        _readable_alike(folder)
        atomic.sync_tree(folder, self._heartbeat)
        atomic.replace_dir(folder, self.path, self._run_id)
        atomic.discard(self._rejected)

    def reject(self, folder: Path) -> str:
        atomic.sync_tree(folder, self._heartbeat)
        atomic.replace_dir(folder, self._rejected, self._run_id)
        return f"{self.uri.rstrip('/')}.{REJECTED}"

    @property
    def _rejected(self) -> Path:
        return self.path.with_name(f"{self.path.name}.{REJECTED}")


def _readable_alike(folder: Path) -> None:
    """Give every file the mode of artifact.json, which is the user's umask: safetensors makes weights that nobody else may read."""
    mode = (folder / contract.ARTIFACT_FILE).stat().st_mode & 0o777
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
