"""A small registry of container images on loopback, by the OCI distribution specification: blobs go up by themselves, a manifest that names
one that is not there is refused, and logins are asked for as registries do."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER, PASSWORD = "poet", "moonlight"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Server:
    """``login``: `Basic`, or `Bearer` with a server of tokens; absent, everybody may push."""

    login: str | None = None
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """By the name of the repository and the digest."""
    manifests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """By the name of the repository, and tag or digest."""
    scopes: list[str] = field(default_factory=list)
    """That tokens were given for."""
    address: str = ""

    def tags(self, name: str) -> list[str]:
        return [tag for owner, tag in self.manifests if owner == name and not tag.startswith("sha256:")]

    def files(self, name: str, reference: str) -> dict[str, bytes]:
        """What `oras pull` would write."""
        return {
            layer["annotations"]["org.opencontainers.image.title"]: self.blobs[name, layer["digest"]]
            for layer in json.loads(self.manifests[name, reference])["layers"]
        }

    def image(self, name: str, tag: str) -> str:
        """An image of a container, by somebody else; returns its digest."""
        described = []
        for content in (b"{}", b"a layer"):
            self.blobs[name, digest_of(content)] = content
            described.append({"digest": digest_of(content), "size": len(content)})
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **described[0]},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **described[1]}],
        }
        content = json.dumps(manifest).encode()
        self.manifests[name, tag] = self.manifests[name, digest_of(content)] = content
        return digest_of(content)


@contextmanager
def registry(login: str | None = None) -> Iterator[Server]:
    """With nothing in it."""
    server = Server(login)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    server.address = f"127.0.0.1:{http.server_address[1]}"
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/token":
                self._token(urllib.parse.parse_qs(query))
            elif part := self._within("pull"):
                name, kind, reference = part
                kept = server.manifests if kind == "manifests" else server.blobs
                content = kept.get((name, reference))
                media = {"Content-Type": MANIFEST if kind == "manifests" else "application/octet-stream"}
                self._send(404) if content is None else self._send(200, content, media)

        do_HEAD = do_GET

        def do_POST(self) -> None:
            if part := self._within("pull,push"):
                self._send(202, headers={"Location": f"/v2/{part[0]}/blobs/uploads/1?state=begun"})

        def do_PUT(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if not (part := self._within("pull,push")):
                return
            name, kind, reference = part
            if kind == "manifests":
                manifest = json.loads(content)
                named = [one["digest"] for one in [manifest["config"], *manifest["layers"]]]
                if missing := [digest for digest in named if (name, digest) not in server.blobs]:
                    self._refuse(400, f"blob unknown to registry: {missing[0]}")
                    return
                server.manifests[name, reference] = server.manifests[name, digest_of(content)] = content
            else:
                digest = urllib.parse.parse_qs(self.path.partition("?")[2])["digest"][0]
                if digest != digest_of(content):
                    self._refuse(400, "provided digest did not match uploaded content")
                    return
                server.blobs[name, digest] = content
            self._send(201)

        def _within(self, access: str) -> tuple[str, str, str] | None:
            """Repository, kind and reference; answers by itself who is not logged in."""
            path = self.path.partition("?")[0].removeprefix("/v2/")
            name, kind, reference = path.replace("/uploads/", "/").rsplit("/", 2)
            wanted = {"Basic": BASIC, "Bearer": f"Bearer {access}", None: None}[server.login]
            given = self.headers.get("Authorization")
            if wanted is None or given == wanted or given == "Bearer pull,push":
                return name, kind, reference
            asked = f'realm="http://{server.address}/token",service="poets",scope="repository:{name}:{access}"'
            self._send(401, headers={"WWW-Authenticate": f"{server.login} {asked}"})
            return None

        def _token(self, query: dict[str, list[str]]) -> None:
            if self.headers.get("Authorization") != BASIC:
                self._refuse(401, "wrong password")
                return
            server.scopes.append(query["scope"][0])
            self._send(200, json.dumps({"token": query["scope"][0].rpartition(":")[2]}).encode())

        def _refuse(self, code: int, message: str) -> None:
            self._send(code, json.dumps({"errors": [{"message": message}]}).encode())

        def _send(self, code: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for header, value in (headers or {}).items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Tests look at what is kept."""

    return Handler
