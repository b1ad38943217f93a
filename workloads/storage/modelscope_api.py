"""ModelScope's HTTP API, as far as models are read and pushed by it.

The site is MODELSCOPE_ENDPOINT (or MODELSCOPE_DOMAIN, as its own programs call it), the token MODELSCOPE_API_TOKEN.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from workloads.storage import pieces
from workloads.storage.hub import HubUnreachable
from workloads.system import tls
from workloads.system.describe import first_line

if TYPE_CHECKING:
    import httpx2

SITE = "https://modelscope.cn"
TOKEN = "MODELSCOPE_API_TOKEN"
MASTER = "master"
"""The branch that every repository has."""
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
LISTED = 3000
"""Files that the site names of a model at most, without a word of there being more."""
PAGE = 200
"""Files of a data set that are asked for at once."""
PRIVATE, PUBLIC = 1, 5
"""How the API writes who may see a repository."""
BRANCH_MOVED = 10030000001
"""What the API answers when another commit was under way; its status says that the request is wrong."""


class HubRefuses(Exception):
    """The site does not let this be done; nothing changes by asking again."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}" if said else str(status))
        self.status = status


@dataclass(frozen=True)
class File:
    """A file of a repository, at one revision."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Listing:
    """All files of a repository at one revision, by their paths."""

    files: Mapping[str, File]
    commit: str | None
    """None where the site does not say which it is."""

    @property
    def revision(self) -> str:
        """The commit, or what the files are."""
        if self.commit:
            return self.commit
        told = [[path, file.sha256] for path, file in sorted(self.files.items())]
        return f"sha256-{hashlib.sha256(json.dumps(told).encode()).hexdigest()}"


def endpoint(environ: Mapping[str, str]) -> str:
    """The site, without a slash at its end."""
    named = environ.get("MODELSCOPE_ENDPOINT") or environ.get("MODELSCOPE_DOMAIN") or SITE
    return (named if re.match("https?://", named, re.IGNORECASE) else f"https://{named}").rstrip("/")


class Site:
    """A client. Raises HubRefuses and HubUnreachable."""

    def __init__(self, environ: Mapping[str, str], heartbeat: Callable[[], None]) -> None:
        import httpx2

        self.endpoint = endpoint(environ)
        self._heartbeat = heartbeat
        token = environ.get(TOKEN)
        # Parts of the API read the one, parts the other.
        self._login = {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}
        timeout = httpx2.Timeout(60, connect=10)
        self._client = httpx2.Client(timeout=timeout, follow_redirects=True, verify=tls.trusted())

    def close(self) -> None:
        self._client.close()

    def listing(self, kind: str, name: str, revision: str) -> Listing | None:
        """``kind``: `model` or `dataset`. None where the repository has no such revision, or no file."""
        found: list[dict[str, Any]] = []
        pages = self._pages(kind, name, revision)
        first = next(pages)
        for page in (first, *pages):
            found += page.get("Files") or []
        if kind == "model" and len(found) >= LISTED:
            raise HubRefuses(200, f"it names no more than {LISTED} files of a repository, and this one has as many")
        if not found:
            return None
        return Listing(dict(_file(entry) for entry in found if entry.get("Type") != "tree"), _commit(first, found))

    def _pages(self, kind: str, name: str, revision: str) -> Iterator[dict[str, Any]]:
        asked = {"Revision": revision, "Recursive": "True"}
        if kind == "model":
            yield self._data(self._ask("GET", f"models/{name}/repo/files", params=asked))
            return
        for number in range(1, 10**6):
            numbered = {**asked, "PageNumber": str(number), "PageSize": str(PAGE)}
            page = self._data(self._ask("GET", f"datasets/{name}/repo/tree", params=numbered))
            yield page
            if len(page.get("Files") or []) < PAGE:
                return

    def read(self, kind: str, name: str, revision: str, path: str) -> bytes:
        """The content of a small file."""
        return b"".join(self.stream(kind, name, revision, path, 0)[1])

    def stream(self, kind: str, name: str, revision: str, path: str, start: int) -> tuple[int, Iterator[bytes]]:
        """Where the content begins, which is ``start`` or, where the site sends all of it, 0; and the content, in pieces."""
        asked = {"Revision": revision, "FilePath": path}
        part = {"Range": f"bytes={start}-"} if start else {}
        with self._broken_off():
            request = self._request("GET", f"{kind}s/{name}/repo", params=asked, headers=part)
            answer = self._client.send(request, stream=True)
            if answer.is_error:
                answer.read()
                answer.close()
                self._good(answer)
        ranged = (
            re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", "")) if answer.status_code == 206 else None
        )
        return int(ranged[1]) if ranged else 0, self._content(answer)

    def _content(self, answer: httpx2.Response) -> Iterator[bytes]:
        with self._broken_off():
            try:
                for piece in answer.iter_bytes():  # as they come: what has come when it breaks off is kept
                    self._heartbeat()
                    yield piece
            finally:
                answer.close()

    def create(self, name: str, private: bool) -> None:
        """An empty repository for a model. Its licence stands in its card."""
        owner, _, own = name.partition("/")
        visibility = PRIVATE if private else PUBLIC
        self._data(
            self._ask("POST", "models", json={"Path": owner, "Name": own, "Visibility": visibility, "License": "Other"})
        )

    def send(self, name: str, content: Path | bytes, sha256: str, size: int) -> None:
        """A large file, unless the site has it. Of no revision until a commit names it."""
        asked = {"operation": "upload", "objects": [{"oid": sha256, "size": size}]}
        answered = self._data(self._ask("POST", f"repos/models/{name}/info/lfs/objects/batch", json=asked))
        upload = next(
            (one.get("actions", {}).get("upload") for one in answered.get("objects") or [] if one.get("oid") == sha256),
            None,
        )
        if not upload:
            return
        headers = {**self._login, **(upload.get("header") or {}), "Content-Length": str(size)}
        sent = pieces.of(content, self._heartbeat)
        with self._broken_off():
            request = self._client.build_request("PUT", upload["href"], headers=headers, content=sent)
            answer = self._good(self._client.send(request))
        _must_be_a_success(_json(answer))

    def commit(self, name: str, branch: str, title: str, actions: list[dict[str, Any]]) -> None:
        """All of ``actions`` or none."""
        asked = {"commit_message": title, "actions": actions}
        self._data(self._ask("POST", f"repos/models/{name}/commit/{quote(branch, safe='')}", json=asked))

    def _ask(self, method: str, path: str, **what: Any) -> httpx2.Response:
        with self._broken_off():
            return self._good(self._client.send(self._request(method, path, **what)))

    def _request(self, method: str, path: str, headers: Mapping[str, str] | None = None, **what: Any) -> httpx2.Request:
        known = {**self._login, **(headers or {})}
        return self._client.build_request(method, f"{self.endpoint}/api/v1/{path}", headers=known, **what)

    def _good(self, answer: httpx2.Response) -> httpx2.Response:
        if answer.is_success:
            return answer
        body = _json(answer)
        said = _said(body)
        if answer.is_client_error and answer.status_code not in (408, 429) and body.get("Code") != BRANCH_MOVED:
            raise HubRefuses(answer.status_code, said)
        raise HubUnreachable(f"it answers {answer.status_code}: {said}".rstrip(": "))

    def _data(self, answer: httpx2.Response) -> dict[str, Any]:
        body = _json(answer)
        _must_be_a_success(body)
        data = body.get("Data")
        return data if isinstance(data, dict) else body

    @contextmanager
    def _broken_off(self) -> Iterator[None]:
        import httpx2

        try:
            yield
        except httpx2.HTTPError as error:
            raise HubUnreachable(f"it broke off: {first_line(error)}") from error


def _json(answer: httpx2.Response) -> dict[str, Any]:
    """The body; empty where it is something else."""
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _said(body: Mapping[str, Any]) -> str:
    return str(body.get("Message") or body.get("message") or "")


def _must_be_a_success(body: Mapping[str, Any]) -> None:
    """Failures have a status of success at times."""
    if body.get("Success") is False or body.get("Code") not in (200, "200", None):
        raise HubUnreachable(f"it answers {body.get('Code')}: {_said(body)}".rstrip(": "))


def _file(entry: Mapping[str, Any]) -> tuple[str, File]:
    path, digest, size = entry.get("Path"), str(entry.get("Sha256") or "").lower(), entry.get("Size")
    if not isinstance(path, str) or not isinstance(size, int) or not SHA256.fullmatch(digest):
        raise HubUnreachable(
            f"it lists {path} without its size and sha256, so nobody could tell whether it arrives whole"
        )
    return path, File(size, digest)


def _commit(data: Mapping[str, Any], entries: list[dict[str, Any]]) -> str | None:
    """The newest commit is told by its first letters; the file that it changed has it whole."""
    latest = data.get("LatestCommitter") or {}
    whole, short = str(latest.get("Id") or ""), str(latest.get("ShortId") or "")
    if COMMIT.fullmatch(whole):
        return whole
    changed = (str(entry.get("Revision") or "") for entry in entries)
    return next((one for one in changed if short and COMMIT.fullmatch(one) and one.startswith(short)), None)
