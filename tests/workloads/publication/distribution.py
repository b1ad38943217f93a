"""A registry of container images on loopback: CNCF Distribution, built from its own module."""

from __future__ import annotations

import base64
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.bed import binaries

USER, PASSWORD = "poet", "moonlight"
HASHED = "$2b$05$abcdefghijklmnopqrstuu.07CWLxMB1U3jZhBXs033bsz0h4oMoa"
"""The password as `htpasswd -B` writes it."""
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Server:
    """``address``: as in `oci://<address>/repository:tag`."""

    address: str
    asks_for_password: bool = False

    def get(self, path: str) -> bytes:
        """By a plain client of its own, which knows the password."""
        request = urllib.request.Request(f"http://{self.address}/v2/{path}", headers={"Accept": MANIFEST})
        if self.asks_for_password:
            request.add_header("Authorization", f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
        return content

    def tags(self, name: str) -> list[str]:
        try:
            return json.loads(self.get(f"{name}/tags/list"))["tags"] or []
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return []

    def files(self, name: str, tag: str) -> dict[str, bytes]:
        """What `oras pull` would write."""
        manifest: dict[str, Any] = json.loads(self.get(f"{name}/manifests/{tag}"))
        return {
            layer["annotations"]["org.opencontainers.image.title"]: self.get(f"{name}/blobs/{layer['digest']}")
            for layer in manifest["layers"]
        }


def configured(folder: Path, address: str, *, asks_for_password: bool = False) -> list[str]:
    """The command of a registry with nothing in it. Its settings, and all that it writes, are in ``folder``; its first line is where it listens,
    at ``address`` or at the port of it that was free."""
    (program,) = binaries.ensure(["registry"])
    settings: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"inmemory": {}},
        "http": {"addr": address, "secret": "secret"},
    }
    if asks_for_password:
        (folder / "htpasswd").write_text(f"{USER}:{HASHED}\n")
        settings["auth"] = {"htpasswd": {"realm": "poets", "path": str(folder / "htpasswd")}}
    (folder / "registry.yaml").write_text(json.dumps(settings))
    return [str(program / "registry"), str(folder / "registry.yaml")]


@contextmanager
def registry(folder: Path, *, asks_for_password: bool = False) -> Iterator[Server]:
    """With nothing in it."""
    command = configured(folder, "127.0.0.1:0", asks_for_password=asks_for_password)
    with (folder / "registry.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, (folder / "registry.log").read_text()
        yield Server(address, asks_for_password)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
