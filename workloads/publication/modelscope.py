"""``ms://org/name[@branch]``: a push to ModelScope.

Large files go up first and belong to no revision; one commit then names all of them, so that a reader finds the whole model or none of it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from alpaca_operator.api import contract
from alpaca_operator.api.contract import ARTIFACT_FILE
from workloads.publication import bundle, card
from workloads.publication.bundle import Bundle
from workloads.publication.place import PlaceUnreachable, PushRefused, Target, must_be_ours
from workloads.storage import hub
from workloads.storage.hub import HubUnreachable
from workloads.storage.modelscope_api import MASTER, TOKEN, HubRefuses, Listing, Site

LARGE = (
    ".7z", ".arrow", ".bin", ".bz2", ".ckpt", ".ftz", ".gguf", ".gz", ".h5", ".joblib", ".mlmodel", ".model", ".msgpack", ".npy", ".npz",
    ".onnx", ".ot", ".parquet", ".pb", ".pickle", ".pkl", ".pt", ".pth", ".rar", ".safetensors", ".tar", ".tflite", ".tgz", ".wasm", ".xz",
    ".zip", ".zst",
)  # fmt: skip
"""Endings of files that go up by themselves whatever their size, as the site's own client has them, and GGUF."""
INLINE_LIMIT = 64 * 1024
"""Bytes of any other file that a commit itself carries."""
READ_BY_THE_SITE = ("readme.md", "config.json", "configuration.json")
"""Shown or searched by the site, which follows no pointer for them."""


class Repository:
    """A repository of ModelScope, at one branch."""

    def __init__(self, target: Target) -> None:
        parsed = hub.parse(target.asked.uri, "Model", target.where)
        self._target = target
        self._name = parsed.name
        self._branch = parsed.revision or MASTER
        self._site = Site(target.credentials, target.heartbeat)
        self.address = card.FOLDER  # libraries look for a name on another hub

    def push(self, pushed: Bundle) -> str:
        """The commit in which the repository holds ``pushed``; nothing is sent where it does already. Raises PushRefused, PlaceUnreachable."""
        try:
            with self._explained():
                head = self._head()
                there = self._artifact(head)
                if pushed.is_of(there):
                    self._target.log(f"{self._target.asked.uri} holds it already, in commit {head.revision}")
                    return head.revision
                must_be_ours(head.files, there, self._target.where)
                return self._commit(pushed, head, there)
        finally:
            self._site.close()

    def _head(self) -> Listing:
        """The branch as it is; of a repository that is made where it is not there."""
        try:
            found = self._site.listing("model", self._name, self._branch)
        except HubRefuses as error:
            if error.status != 404:
                raise
            self._site.create(self._name, self._target.private)
            found = self._site.listing("model", self._name, self._branch)
        if found is None and self._branch != MASTER:
            raise PushRefused(
                f"{self._target.where}: {self._name} has no branch {self._branch}, and its API makes none: make it at "
                f"{self._site.endpoint}/models/{self._name}, or leave @{self._branch} out"
            )
        return found or Listing({}, None)

    def _artifact(self, head: Listing) -> contract.Artifact | None:
        if ARTIFACT_FILE not in head.files:
            return None
        return bundle.read(self._site.read("model", self._name, head.commit or self._branch, ARTIFACT_FILE))

    def _commit(self, pushed: Bundle, head: Listing, there: contract.Artifact | None) -> str:
        added = [self._added(path, pushed) for path in pushed.files]
        before = [file.path for file in there.files] if there else []
        gone = [_removed(path) for path in before if path in head.files and path not in pushed.files]
        self._site.commit(self._name, self._branch, pushed.title, [*added, *gone])
        now = self._site.listing("model", self._name, self._branch)
        listed = now.files.get(ARTIFACT_FILE) if now else None
        if now is None or listed is None or listed.sha256 != _described(ARTIFACT_FILE, pushed)[0]:
            raise PlaceUnreachable(
                f"{self._target.where}: it took the commit and lists another {ARTIFACT_FILE}: somebody else pushes there"
            )
        self._target.log(f"pushed {len(pushed.files)} files to {self._target.asked.uri} in commit {now.revision}")
        return now.revision

    def _added(self, path: str, pushed: Bundle) -> dict[str, Any]:
        """What the commit says of a file, which goes up by itself where it is large."""
        content = pushed.files[path]
        sha256, size = _described(path, pushed)
        if _is_large(path, size):
            self._site.send(self._name, content, sha256, size)
            return {
                "action": "create",
                "path": path,
                "type": "lfs",
                "size": size,
                "sha256": sha256,
                "content": "",
                "encoding": "",
            }
        inline = content if isinstance(content, bytes) else content.read_bytes()
        return {
            "action": "create",
            "path": path,
            "type": "normal",
            "size": size,
            "sha256": "",
            "content": base64.b64encode(inline).decode(),
            "encoding": "base64",
        }

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the site says, in our words."""
        where, at = self._target.where, self._site.endpoint
        try:
            yield
        except HubRefuses as error:
            if error.status in (401, 403, 404):
                raise PushRefused(
                    f"{where}: {at} does not let the token write there ({error}): give one with write access to {self._name} in "
                    f"{self._target.token_state(TOKEN)}"
                ) from error
            raise PushRefused(f"{where}: {at} refuses the push ({error})") from error
        except HubUnreachable as error:
            raise PlaceUnreachable(f"{where}: {at}: {error}") from error


def _is_large(path: str, size: int) -> bool:
    name = PurePosixPath(path).name.lower()
    return size > 0 and name not in READ_BY_THE_SITE and (size > INLINE_LIMIT or name.endswith(LARGE))


def _removed(path: str) -> dict[str, Any]:
    return {"action": "delete", "path": path, "type": "normal", "size": 0, "sha256": "", "content": "", "encoding": ""}


def _described(path: str, pushed: Bundle) -> tuple[str, int]:
    """The sha256 and the size of a file."""
    content = pushed.files[path]
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest(), len(content)
    file = next(file for file in pushed.artifact.files if file.path == path)
    return file.sha256, file.size
