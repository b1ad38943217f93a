"""``oci://registry/repository:tag``: a push to a registry of container images, as an artifact of one layer for each file.

Layers go up first and belong to no tag; the manifest that names all of them comes last, so that the tag has the whole model or what it
had before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from alpaca_operator.api import contract
from alpaca_operator.api.contract import ARTIFACT_FILE
from workloads.publication import bundle, card
from workloads.publication.bundle import Bundle
from workloads.publication.place import PlaceUnreachable, PushRefused, Target
from workloads.storage import oci
from workloads.storage.oci import MANIFEST, TITLE, NoFiles, Registry, RegistryRefuses, RegistryUnreachable

ARTIFACT_TYPE = "application/vnd.literary-alpaca.model.v1+json"
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


class Repository:
    """A repository of a registry, at one tag."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._address = oci.parse(target.asked.uri, target.where)
        self.address = card.FOLDER  # libraries load from the folder that was pulled

    def push(self, pushed: Bundle) -> str:
        """The digest of the manifest by which the repository holds ``pushed``; nothing is sent where it does already. Raises PushRefused,
        PlaceUnreachable."""
        registry = Registry(self._address, self._target.credentials, self._target.heartbeat)
        try:
            with self._explained():
                there = self._there(registry)
                if there is not None and pushed.is_of(there[1]):
                    self._target.log(f"{self._target.asked.uri} holds it already, as {there[0]}")
                    return there[0]
                layers = [self._layer(registry, path, pushed) for path in pushed.files]
                registry.send(EMPTY, _sha256(EMPTY), len(EMPTY))
                digest = registry.put_manifest(self._address.reference, _manifest(pushed, layers))
                self._target.log(f"pushed {len(layers)} files to {self._target.asked.uri} as {digest}")
                return digest
        finally:
            registry.close()

    def _there(self, registry: Registry) -> tuple[str, contract.Artifact] | None:
        """What the tag names. Raises PushRefused for what is not ours."""
        found = registry.manifest(self._address.reference)
        if found is None:
            return None
        digest, manifest = found
        layer = next((one for one in _files(manifest) if one.path == ARTIFACT_FILE), None)
        artifact = bundle.read(registry.read(layer)) if layer else None
        if artifact is None:
            raise PushRefused(
                f"{self._target.where}: the tag names {digest}, which has no {ARTIFACT_FILE}, so it is not ours to replace: name another tag, or "
                "remove that one"
            )
        return digest, artifact

    @staticmethod
    def _layer(registry: Registry, path: str, pushed: Bundle) -> dict[str, Any]:
        content = pushed.files[path]
        if isinstance(content, bytes):
            digest, size = _sha256(content), len(content)
        else:
            file = next(file for file in pushed.artifact.files if file.path == path)
            digest, size = f"sha256:{file.sha256}", file.size
        registry.send(content, digest, size)
        return {
            "mediaType": "application/octet-stream",
            "digest": digest,
            "size": size,
            "annotations": {TITLE: path},
        }

    @contextmanager
    def _explained(self) -> Iterator[None]:
        where, at = self._target.where, self._address.registry
        login = oci.credentials_state(self._target.credentials)
        try:
            yield
        except RegistryRefuses as error:
            if error.status in (401, 403, 404):
                raise PushRefused(
                    f"{where}: {at} does not let this login push to {self._address.name} ({error}): check {login}"
                ) from error
            raise PushRefused(f"{where}: {at} refuses the push ({error})") from error
        except RegistryUnreachable as error:
            raise PlaceUnreachable(f"{where}: {at}: {error}") from error


def _files(manifest: Mapping[str, Any]) -> list[oci.Layer]:
    try:
        return oci.layers(manifest)
    except NoFiles:  # an image: none of ours
        return []


def _manifest(pushed: Bundle, layers: list[dict[str, Any]]) -> bytes:
    """The same for the same bundle."""
    artifact = pushed.artifact
    annotations = {
        "org.opencontainers.image.created": artifact.created_at,
        "org.opencontainers.image.description": pushed.title,
        "io.literary-alpaca.digest": artifact.digest,
    }
    content = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": EMPTY_TYPE, "digest": _sha256(EMPTY), "size": len(EMPTY)},
        "layers": layers,
        "annotations": {name: value for name, value in annotations.items() if value},
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
