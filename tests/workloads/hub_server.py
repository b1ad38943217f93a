"""A small Hugging Face hub on loopback: the newest revision of each repository, tokens, gates, pushes, and its way to say no."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40
TOKEN = "hf_right"


@dataclass
class Hub:
    """Repositories by `models/org/name` or `datasets/org/name`, each with its files."""

    repositories: dict[str, dict[str, bytes]]
    gated: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    requests: list[str] = field(default_factory=list)
    commits: dict[str, str] = field(default_factory=dict)
    """The newest of each repository; COMMIT where nobody has pushed to it."""
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the headers of their READMEs say."""
    private: dict[str, bool] = field(default_factory=dict)
    """Of repositories that were made here."""
    large: dict[str, bytes] = field(default_factory=dict)
    """Contents that were sent by themselves, by sha256; of no revision until a commit names them."""
    pushes: list[str] = field(default_factory=list)
    """Titles of commits, the oldest first."""

    _held = ""

    def __enter__(self) -> Hub:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def hold(self, method: str) -> Iterator[threading.Event]:
        """Requests of this method get no answer until the block ends; the event is set when there is one."""
        self._held, self._asked, self._goes_on = method, threading.Event(), threading.Event()
        try:
            yield self._asked
        finally:
            self._held = ""
            self._goes_on.set()

    def wait_while_held(self, method: str) -> None:
        if method == self._held:
            self._asked.set()
            self._goes_on.wait()

    def commit(self, name: str) -> str:
        return self.commits.get(name, COMMIT)

    def take(self, name: str, lines: list[dict[str, Any]]) -> str:
        """A commit: all of it or nothing. Raises KeyError for a large file that was not sent."""
        files = dict(self.repositories[name])
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        self.pushes.append(lines[0]["value"]["summary"])
        self.repositories[name] = files
        self.commits[name] = hashlib.sha1(f"{name} {len(self.pushes)}".encode()).hexdigest()
        return self.commits[name]


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            parts = path.strip("/").split("/")
            if parts[0] == "api":
                name, verb, rest = "/".join(parts[1:4]), parts[4] if len(parts) > 4 else "", parts[5:]
            else:
                kind = parts.pop(0) if parts[0] == "datasets" else "models"
                name, verb, rest = f"{kind}/{parts[0]}/{parts[1]}", parts[2], parts[3:]
            authorised = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if name in hub.broken:
                self._send(500, b"out of order")
            elif name not in hub.repositories:
                self._send(404 if authorised else 401, b"", {"X-Error-Code": "RepoNotFound"})
            elif name in hub.gated and not authorised:
                self._send(403, b"", {"X-Error-Code": "GatedRepo"})
            elif rest and rest[0] not in ("main", hub.commit(name)):
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif verb == "resolve":
                content = hub.repositories[name]["/".join(rest[1:])]
                digest = hashlib.sha256(content).hexdigest()
                self._send(200, content, {"ETag": f'"{digest}"', "X-Repo-Commit": hub.commit(name)})
            elif verb == "tree":
                self._send_json(
                    [
                        {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                        for path, content in hub.repositories[name].items()
                    ]
                )
            else:
                self._send_json(
                    {
                        "id": name,
                        "sha": hub.commit(name),
                        "cardData": hub.cards.get(name),
                        "siblings": [{"rfilename": path} for path in hub.repositories[name]],
                    }
                )

        def do_PUT(self) -> None:
            content, digest = self._body(), self.path.rpartition("/")[2]
            hub.requests.append(f"PUT {self.path}")
            hub.wait_while_held("PUT")
            if hashlib.sha256(content).hexdigest() != digest:
                self._send(400, b"another content than was announced")
                return
            hub.large[digest] = content
            self._send(200, b"")

        def do_POST(self) -> None:
            body = self._body()
            path = self.path.partition("?")[0]
            hub.requests.append(f"POST {path}")
            parts = path.strip("/").split("/")
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._send(401, b'{"error": "Invalid username or password."}', {"Content-Type": "application/json"})
            elif path == "/api/validate-yaml":
                self._send_json({"errors": [], "warnings": []})
            elif path == "/api/repos/create":
                asked = json.loads(body)
                name = f"models/{asked['organization']}/{asked['name']}"
                hub.repositories.setdefault(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
                hub.private[name] = asked["visibility"] == "private"
                self._send_json({"url": f"{hub.endpoint}/{asked['organization']}/{asked['name']}", "id": name})
            elif path.endswith("/info/lfs/objects/batch"):
                self._batch(json.loads(body))
            elif parts[4] == "preupload":
                name = "/".join(parts[1:4])
                files = [self._how(name, one["path"]) for one in json.loads(body)["files"]]
                self._send_json({"files": files})
            else:
                self._commit("/".join(parts[1:4]), [json.loads(line) for line in body.splitlines()])

        def _how(self, name: str, path: str) -> dict[str, Any]:
            is_ignored = path in hub.repositories[name].get(".gitignore", b"").decode().split()
            mode = "lfs" if path.endswith((".safetensors", ".gguf", ".png")) else "regular"
            return {"path": path, "uploadMode": mode, "shouldIgnore": is_ignored, "oid": None}

        def _batch(self, asked: dict[str, Any]) -> None:
            objects = []
            for one in asked["objects"]:
                upload = {"href": f"{hub.endpoint}/large/{one['oid']}", "header": {}}
                there = one["oid"] in hub.large
                objects.append({**one, **({} if there else {"actions": {"upload": upload}})})
            self._send_json({"transfer": "basic", "objects": objects})

        def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
            if lines[0]["value"].get("parentCommit", hub.commit(name)) != hub.commit(name):
                self._send(412, b'{"error": "A commit has happened since."}', {"Content-Type": "application/json"})
                return
            made = hub.take(name, lines)
            self._send_json(
                {
                    "success": True,
                    "commitOid": made,
                    "commitUrl": f"{hub.endpoint}/{name.removeprefix('models/')}/commit/{made}",
                }
            )

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def _send_json(self, content: Any) -> None:
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for header, value in (headers or {}).items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """The test reads ``requests``."""

    return Handler
