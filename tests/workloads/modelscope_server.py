"""ModelScope on loopback, as far as its own client asks of it: branches of commits, large files beside them, tokens, and its ways to say no."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "ms-right"
FIRST = "1" * 40


@dataclass
class Repository:
    """Commits by their ids, each with its files and with the commit that changed each of them last."""

    commits: dict[str, dict[str, tuple[bytes, str]]]
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False

    @classmethod
    def of(cls, files: dict[str, bytes], private: bool = False) -> Repository:
        return cls({FIRST: {path: (content, FIRST) for path, content in files.items()}}, {"master": FIRST}, private)

    def commit(self, branch: str, files: dict[str, bytes], parent: str | None) -> str:
        before = self.commits.get(parent or "", {})
        made = hashlib.sha1(f"{len(self.commits)} {sorted(files.items())}".encode()).hexdigest()
        self.commits[made] = {
            path: before[path] if path in before and before[path][0] == content else (content, made)
            for path, content in files.items()
        }
        self.branches[branch] = made
        return made


@dataclass
class Site:
    """Repositories by `models/org/name` or `datasets/org/name`."""

    repositories: dict[str, Repository]
    requests: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    """Contents that were sent by themselves, by sha256; of no revision until a commit names them."""
    pushes: list[str] = field(default_factory=list)
    """Titles of commits, the oldest first."""
    cut: dict[str, int] = field(default_factory=dict)
    """Files (and `large` ones) of which the next answer breaks off after so many bytes."""
    garbled: set[str] = field(default_factory=set)
    """Files that arrive as something else."""
    broken: bool = False
    commit_failure: dict[str, Any] | None = None

    _held = ""

    def __enter__(self) -> Site:
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

    def files(self, name: str, revision: str = "master") -> dict[str, bytes]:
        repository = self.repositories[name]
        found = repository.commits[repository.branches.get(revision, revision)]
        return {path: content for path, (content, _) in found.items()}

    def take(self, name: str, branch: str, asked: dict[str, Any]) -> str:
        """A commit: all of it or nothing. Raises KeyError for a large file that was not sent."""
        repository = self.repositories[name]
        parent = repository.branches.get(branch)
        files = {path: content for path, (content, _) in repository.commits.get(parent or "", {}).items()}
        for action in asked["actions"]:
            if action["action"] == "delete":
                del files[action["path"]]
            elif action["type"] == "lfs":
                files[action["path"]] = self.large[action["sha256"]]
            else:
                files[action["path"]] = base64.b64decode(action["content"])
        self.pushes.append(asked["commit_message"])
        return repository.commit(branch, files, parent)


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            site.requests.append(f"GET {unquote(self.path)}")
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if parts.path.startswith("/large/"):
                if self.headers.get("Authorization") or self.headers.get("Cookie"):
                    self._fail(400, 400, "only one way to be known is allowed")
                else:
                    self._send_content("large", site.large[parts.path.rpartition("/")[2]])
                return
            kind, owner, name, *verb = parts.path.removeprefix("/api/v1/").split("/")
            repository = site.repositories.get(f"{kind}/{owner}/{name}")
            if site.broken:
                self._send(502, b"<html>bad gateway</html>")
            elif repository is None or (repository.private and not self._is_known()):
                self._fail(404, 10010205001, "模型不存在")
            elif verb in (["repo", "files"], ["repo", "tree"]):
                self._list(repository, asked, paged=verb[1] == "tree")
            elif verb == ["repo"]:
                self._file(repository, asked)
            else:
                self._fail(404, 404, "not found")

        def _is_known(self) -> bool:
            by_header = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            return by_header and f"m_session_id={TOKEN}" in self.headers.get("Cookie", "")

        def _list(self, repository: Repository, asked: dict[str, str], paged: bool) -> None:
            revision = repository.branches.get(asked["Revision"], asked["Revision"])
            found = repository.commits.get(revision)
            if found is None:  # a success, to the API
                self._send_data({"Files": None, "IsVisual": 0, "LatestCommitter": None})
                return
            folders = sorted({path.rpartition("/")[0] for path in found} - {""})
            entries: list[dict[str, Any]] = [
                {"Path": path, "Name": path, "Type": "tree", "Size": 0, "Sha256": "", "Revision": revision}
                for path in folders
            ]
            entries += [
                {
                    "Path": path,
                    "Name": path.rpartition("/")[2],
                    "Type": "blob",
                    "Size": len(content),
                    "Sha256": hashlib.sha256(content).hexdigest(),
                    "Revision": changed,
                    "IsLFS": len(content) > 64,
                }
                for path, (content, changed) in sorted(found.items())
            ]
            if paged:
                size = int(asked["PageSize"])
                start = (int(asked["PageNumber"]) - 1) * size
                entries = entries[start : start + size]
            self._send_data({"Files": entries, "LatestCommitter": {"Id": "", "ShortId": revision[:8]}})

        def _file(self, repository: Repository, asked: dict[str, str]) -> None:
            revision = repository.branches.get(asked["Revision"], asked["Revision"])
            path = asked["FilePath"]
            if path not in repository.commits.get(revision, {}):
                self._fail(404, 10010205002, "file not found")
                return
            content = repository.commits[revision][path][0]
            digest = hashlib.sha256(content).hexdigest()
            if digest in site.large:  # they lie with another host, which gets no token
                self.send_response(302)
                self.send_header("Location", f"{site.endpoint.replace('127.0.0.1', 'localhost')}/large/{digest}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._send_content(path, bytes(len(content)) if path in site.garbled else content)

        def _send_content(self, path: str, content: bytes) -> None:
            start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            begin = int(start[1]) if start else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            end = begin + site.cut.pop(path) if path in site.cut else len(content)
            self.wfile.write(content[begin:end])
            if end < len(content):
                self.close_connection = True

        def do_PUT(self) -> None:
            content, digest = self._body(), self.path.rpartition("/")[2]
            site.requests.append(f"PUT {self.path}")
            site.wait_while_held("PUT")
            if not self._is_known():
                self._fail(401, 401, "who are you")
            elif hashlib.sha256(content).hexdigest() != digest:
                self._fail(400, 400, "another content than was announced")
            else:
                site.large[digest] = content
                self._send_data({})

        def do_POST(self) -> None:
            body = json.loads(self._body() or b"{}")
            path = unquote(self.path.removeprefix("/api/v1/"))
            site.requests.append(f"POST /api/v1/{path}")
            name = "/".join(path.split("/")[1:4])
            if not self._is_known():
                self._fail(401, 10010103009, "user not logged in")
            elif path == "models":
                self._create(body)
            elif name not in site.repositories:
                self._fail(404, 10010205001, "模型不存在")
            elif path.endswith("/info/lfs/objects/batch"):
                self._batch(body)
            elif site.commit_failure:
                self._send(400, json.dumps(site.commit_failure).encode())
            else:
                site.take(name, path.rpartition("/commit/")[2], body)
                self._send_data({})

        def _create(self, asked: dict[str, Any]) -> None:
            name = f"models/{asked['Path']}/{asked['Name']}"
            if name in site.repositories:
                self._fail(400, 10010101001, "该名称已被注册使用，请重新命名")
                return
            files = {".gitattributes": b"*.safetensors filter=lfs\n", "README.md": b"---\nlicense: other\n---\n"}
            site.repositories[name] = Repository.of(files, private=asked["Visibility"] == 1)
            self._send_data({"Id": 1, "Path": asked["Path"], "Name": asked["Name"]})

        def _batch(self, asked: dict[str, Any]) -> None:
            """Of what is there already nothing is said."""
            missing = [one for one in asked["objects"] if one["oid"] not in site.large]
            self._send_data(
                {
                    "objects": [
                        {**one, "actions": {"upload": {"href": f"{site.endpoint}/large/{one['oid']}"}}}
                        for one in missing
                    ]
                }
            )

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _send_data(self, data: dict[str, Any]) -> None:
            answer = {"Code": 200, "Data": data, "Message": "success", "RequestId": "r", "Success": True}
            self._send(200, json.dumps(answer).encode())

        def _fail(self, status: int, code: int, message: str) -> None:
            answer = {"Code": code, "Message": message, "RequestId": "r", "Success": False}
            self._send(status, json.dumps(answer).encode())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """The test reads ``requests``."""

    return Handler
