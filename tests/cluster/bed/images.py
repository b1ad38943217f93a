"""Images of the node, as archives that containerd imports. What is big is not in the archive but bound over a layer."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.bed import binaries, debian
from tests.cluster.bed.configs import PAUSE_IMAGE

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ROLES = ("base",)


@dataclass(frozen=True)
class Layer:
    """Files by path, or a folder of this host in their stead."""

    files: Mapping[str, tuple[bytes, int]] = field(default_factory=dict)
    bound: Path | None = None

    @property
    def marker(self) -> str:
        """The only file of a bound layer: by it the node finds the layer again, whose place the folder takes."""
        return f".bed-layer-{hashlib.sha256(str(self.bound).encode()).hexdigest()[:16]}"

    def tar(self) -> bytes:
        buffer = io.BytesIO()
        files = {self.marker: (b"", 0o644)} if self.bound else self.files
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, (content, mode) in sorted(files.items()):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                entry.mode = mode
                archive.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()


@dataclass(frozen=True)
class Image:
    role: str
    name: str
    layers: tuple[Layer, ...]
    config: Mapping[str, Any]

    @property
    def bound(self) -> dict[str, Path]:
        return {layer.marker: layer.bound for layer in self.layers if layer.bound}

    def write(self, path: Path) -> None:
        """An OCI image layout in a tar file."""
        blobs: dict[str, bytes] = {}

        def add(content: bytes, kind: str) -> dict[str, Any]:
            digest = hashlib.sha256(content).hexdigest()
            blobs[digest] = content
            return {
                "mediaType": f"application/vnd.oci.image.{kind}",
                "digest": f"sha256:{digest}",
                "size": len(content),
            }

        layers = [add(layer.tar(), "layer.v1.tar") for layer in self.layers]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": add(_json(config), "config.v1+json"),
            "layers": layers,
        }
        entry = add(_json(manifest), "manifest.v1+json") | {"annotations": {"io.containerd.image.name": self.name}}
        with tarfile.open(path, "w") as archive:
            files = {
                "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
                "index.json": _json({"schemaVersion": 2, "manifests": [entry]}),
            }
            for name, content in (files | {f"blobs/sha256/{digest}": blob for digest, blob in blobs.items()}).items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def pause() -> Image:
    program = shutil.which("pause", path=binaries.path(binaries.ensure(["pause"])))
    assert program, "binaries.ensure built it"
    return Image(
        "pause",
        PAUSE_IMAGE,
        (Layer({"pause": (Path(program).read_bytes(), 0o755)}),),
        {"Entrypoint": ["/pause"], "User": "65534:65534"},
    )


def base() -> Image:
    """Python and a shell: what a test's own pods run on."""
    layer = Layer(bound=debian.base())
    return Image("base", "bed.local/base:1", (layer,), {"Env": [f"PATH={SEARCH_PATH}"], "Cmd": ["python3"]})


MAKERS: Mapping[str, Callable[[], Image]] = {"base": base}


def make(role: str) -> Image:
    return MAKERS[role]()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
