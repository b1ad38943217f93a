"""``oci://registry/repository:tag``: models in a registry of container images, as `oras push` lays them down: a layer for each file, named by its
title.

Credentials are REGISTRY_USERNAME and REGISTRY_PASSWORD, or what `docker login` has written. Registries on this machine are spoken to in
the clear, others with REGISTRY_PLAIN_HTTP=1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from workloads.errors import InputError, SpecError, WorkloadError
from workloads.storage import pieces
from workloads.storage.pieces import CHUNK
from workloads.system import tls
from workloads.system.describe import first_line, some

if TYPE_CHECKING:
    import httpx2

ADDRESS = re.compile(
    r"oci://(?P<registry>[A-Za-z0-9.-]+(:\d+)?)/(?P<name>[a-z0-9]+([._/-]+[a-z0-9]+)*)"
    r"(?P<reference>:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[0-9a-f]{64})"
)
HOW_WRITTEN = "oci://registry/repository:tag or oci://registry/repository@sha256:…, the repository in small letters"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TITLE = "org.opencontainers.image.title"
MANIFEST_LIMIT = 4 * 2**20
"""Bytes that a registry has to take of a manifest, and so may send."""
LOOPBACK = ("localhost", "127.0.0.1")


class RegistryRefuses(Exception):
    """The registry does not let this be done; nothing changes by asking again."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}" if said else str(status))
        self.status = status


class NoFiles(ValueError):
    """A manifest is none of a model: its layers name no files, or lead out of their folder."""


class RegistryUnreachable(WorkloadError):
    """The registry did not answer, or not sensibly. It may the next time, so the run is tried again."""


@dataclass(frozen=True)
class Address:
    """An ``oci://`` address in its parts."""

    registry: str
    name: str
    reference: str
    """A tag, or `sha256:…`."""


def parse(uri: str, where: str) -> Address:
    """Raises SpecError for an address without a tag or digest."""
    found = ADDRESS.fullmatch(uri)
    if found is None:
        raise SpecError(f"{where}: write {HOW_WRITTEN}")
    return Address(found["registry"], found["name"], found["reference"][1:])


@dataclass(frozen=True)
class Layer:
    """A file of a manifest."""

    path: str
    digest: str
    size: int


class Registry:
    """A repository of a registry, over its HTTP API. Raises RegistryRefuses and RegistryUnreachable."""

    def __init__(self, address: Address, environ: Mapping[str, str], heartbeat: Callable[[], None]) -> None:
        import httpx2

        self._address = address
        host = address.registry.partition(":")[0]
        plain = host in LOOPBACK or environ.get("REGISTRY_PLAIN_HTTP") == "1"
        self._base = f"{'http' if plain else 'https'}://{address.registry}/v2/{address.name}/"
        self._login = login(address.registry, environ)
        self._heartbeat = heartbeat
        self._authorization: str | None = None
        timeout = httpx2.Timeout(60, connect=10)
        self._client = httpx2.Client(timeout=timeout, follow_redirects=True, verify=tls.trusted())

    def close(self) -> None:
        self._client.close()

    def manifest(self, reference: str) -> tuple[str, dict[str, Any]] | None:
        """Its digest and content; None where there is none."""
        answer = self._ask("GET", f"manifests/{reference}", headers={"Accept": MANIFEST})
        if answer.status_code == 404:
            return None
        content = self._good(answer).content
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if len(content) > MANIFEST_LIMIT or not isinstance(found, dict):
            raise RegistryUnreachable("its answer is no manifest")
        if reference.startswith("sha256:") and reference != digest:
            raise RegistryUnreachable(f"it sent {digest} for {reference}")
        return digest, found

    def has(self, digest: str) -> bool:
        answer = self._ask("HEAD", f"blobs/{digest}")
        if answer.status_code == 404:
            return False
        self._good(answer)
        return True

    def read(self, layer: Layer) -> bytes:
        """The content of a small one."""
        return b"".join(self.stream(layer))

    def stream(self, layer: Layer) -> Iterator[bytes]:
        """The content in pieces. Raises RegistryUnreachable at its end where it is another than was announced."""
        read = hashlib.sha256()
        with self._broken_off():
            request = self._request("GET", f"blobs/{layer.digest}")
            answer = self._client.send(request, stream=True)
            if answer.status_code == 401:
                answer.close()
                self._log_in(answer)
                answer = self._client.send(self._request("GET", f"blobs/{layer.digest}"), stream=True)
            try:
                if answer.is_error:
                    answer.read()
                    self._good(answer)
                for piece in answer.iter_bytes(CHUNK):
                    read.update(piece)
                    self._heartbeat()
                    yield piece
            finally:
                answer.close()
        if f"sha256:{read.hexdigest()}" != layer.digest:
            raise RegistryUnreachable(f"{layer.path} is not what was announced")

    def send(self, content: Path | bytes, digest: str, size: int) -> None:
        """A blob, unless it is there. Of no manifest until one names it."""
        if self.has(digest):
            return
        begun = self._good(self._ask("POST", "blobs/uploads/"))
        place = urljoin(self._base, begun.headers["Location"])
        joint = "&" if "?" in place else "?"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        self._good(
            self._ask(
                "PUT",
                f"{place}{joint}digest={digest}",
                headers=headers,
                content=lambda: pieces.of(content, self._heartbeat),
            )
        )

    def put_manifest(self, tag: str, content: bytes) -> str:
        """From here on the tag names it. Returns its digest."""
        headers = {"Content-Type": MANIFEST, "Content-Length": str(len(content))}
        self._good(self._ask("PUT", f"manifests/{tag}", headers=headers, content=lambda: iter([content])))
        return f"sha256:{hashlib.sha256(content).hexdigest()}"

    def _ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        content: Callable[[], Iterator[bytes]] | None = None,
    ) -> httpx2.Response:
        """An answer of any kind, once logged in where that is asked for. ``content`` is asked for anew when it has to be sent again."""
        with self._broken_off():
            answer = self._client.send(self._request(method, path, headers, content))
            if answer.status_code == 401:
                self._log_in(answer)
                answer = self._client.send(self._request(method, path, headers, content))
            return answer

    def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        content: Callable[[], Iterator[bytes]] | None = None,
    ) -> httpx2.Request:
        known = {"Authorization": self._authorization} if self._authorization else {}
        return self._client.build_request(
            method,
            urljoin(self._base, path),
            headers={**(headers or {}), **known},
            content=content() if content else None,
        )

    def _log_in(self, answer: httpx2.Response) -> None:
        """As the registry says: with the password itself, or with a token that its server gives for this repository. Raises RegistryRefuses."""
        scheme, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
        basic = base64.b64encode(":".join(self._login).encode()).decode() if self._login else None
        if scheme.lower() == "basic" and basic:
            self._authorization = f"Basic {basic}"
            return
        asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if scheme.lower() != "bearer" or "realm" not in asked:
            raise RegistryRefuses(401, "it asks for a login")
        scope = asked.get("scope") or f"repository:{self._address.name}:pull,push"
        given = self._client.get(
            asked["realm"],
            params={"scope": scope, **({"service": asked["service"]} if "service" in asked else {})},
            headers={"Authorization": f"Basic {basic}"} if basic else {},
        )
        body = self._good(given).json()
        self._authorization = f"Bearer {body.get('token') or body.get('access_token')}"

    def _good(self, answer: httpx2.Response) -> httpx2.Response:
        if answer.status_code in (401, 403, 404) or (answer.is_client_error and answer.status_code not in (408, 429)):
            raise RegistryRefuses(answer.status_code, _said(answer))
        if not answer.is_success:
            raise RegistryUnreachable(f"it answers {answer.status_code}: {_said(answer)}".rstrip(": "))
        return answer

    @contextmanager
    def _broken_off(self) -> Iterator[None]:
        import httpx2

        try:
            yield
        except httpx2.HTTPError as error:
            raise RegistryUnreachable(f"it broke off: {first_line(error)}") from error


def _said(answer: httpx2.Response) -> str:
    """Why it refuses, in its own words."""
    try:
        errors = answer.json()["errors"]
        return "; ".join(str(one.get("message") or one.get("code")) for one in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def login(registry: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """User and password: of the environment, or of `docker login`."""
    if environ.get("REGISTRY_USERNAME") and environ.get("REGISTRY_PASSWORD"):
        return environ["REGISTRY_USERNAME"], environ["REGISTRY_PASSWORD"]
    folder = Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or "/", ".docker"))
    try:
        known = json.loads((folder / "config.json").read_text(encoding="utf-8"))["auths"][registry]["auth"]
        user, _, password = base64.b64decode(known).decode().partition(":")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return user, password


def layers(manifest: Mapping[str, Any]) -> list[Layer]:
    """The files that a manifest names. Raises NoFiles."""
    found = []
    for layer in manifest.get("layers") or []:
        title = (layer.get("annotations") or {}).get(TITLE)
        if not title:
            kind = manifest.get("artifactType") or (manifest.get("config") or {}).get("mediaType")
            raise NoFiles(f"its layers name no files (it is a {kind}): push the files themselves, as `oras push` does")
        path = PurePosixPath(title)
        if path.is_absolute() or ".." in path.parts:
            raise NoFiles(f"its layer {title!r} leads out of the folder")
        found.append(Layer(str(path), str(layer["digest"]), int(layer["size"])))
    return found


def fetch(
    uri: str, where: str, cache: Path, keep: Callable[[list[str]], Iterable[str]], heartbeat: Callable[[], None]
) -> Path:
    """A local folder of links to the files of a manifest, each downloaded once. Raises InputError where there is no such model."""
    address = parse(uri, where)
    registry = Registry(address, os.environ, heartbeat)
    at = f"{where}: {address.registry}"
    try:
        found = registry.manifest(address.reference)
        if found is None:
            raise InputError(f"{at} has no {address.name} {address.reference}: check the name and the tag")
        digest, manifest = found
        there = {layer.path: layer for layer in layers(manifest)}
        names = sorted(keep(list(there)))
        if not names:
            raise InputError(f"{where}: it holds {some(sorted(there))}, and nothing that is read here")
        snapshot = cache / "oci" / "snapshots" / digest.removeprefix("sha256:")
        for name in names:
            _link(snapshot / name, _blob(registry, there[name], cache / "oci" / "blobs"))
    except NoFiles as error:
        raise InputError(f"{where}: {error}") from error
    except RegistryRefuses as error:
        raise InputError(
            f"{at} refuses {address.name} ({error}): check the name, and {credentials_state(os.environ)}"
        ) from error
    except RegistryUnreachable as error:
        raise RegistryUnreachable(f"{at}: {error}") from error
    finally:
        registry.close()
    return snapshot


def credentials_state(environ: Mapping[str, str]) -> str:
    """The variables of the login as messages name them."""
    if environ.get("REGISTRY_USERNAME") and environ.get("REGISTRY_PASSWORD"):
        return "REGISTRY_USERNAME and REGISTRY_PASSWORD, which are set"
    return "REGISTRY_USERNAME and REGISTRY_PASSWORD, which are not both set (in a pod: secretRef)"


def _blob(registry: Registry, layer: Layer, folder: Path) -> Path:
    """By its digest, as the hub's cache has its large files: what reads it need not compute that again."""
    path = folder / layer.digest.removeprefix("sha256:")
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as copy:
            for piece in registry.stream(layer):
                copy.write(piece)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _link(target: Path, blob: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(os.path.relpath(blob, target.parent))
