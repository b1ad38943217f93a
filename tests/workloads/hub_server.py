"""A small Hugging Face hub on loopback: one revision of each repository, tokens, gates, and its way to say no."""

from __future__ import annotations

import hashlib
import json
import threading
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

    def __enter__(self) -> Hub:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"


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
            elif rest and rest[0] not in ("main", COMMIT):
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif verb == "resolve":
                content = hub.repositories[name]["/".join(rest[1:])]
                digest = hashlib.sha256(content).hexdigest()
                self._send(200, content, {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT})
            elif verb == "tree":
                self._send_json(
                    [
                        {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                        for path, content in hub.repositories[name].items()
                    ]
                )
            else:
                self._send_json(
                    {"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in hub.repositories[name]]}
                )

        def _send_json(self, content: Any) -> None:
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for header, value in (headers or {}).items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """The test reads ``requests``."""

    return Handler
