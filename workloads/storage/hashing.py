"""Digests of files and folders, remembered between runs so that a second start need not read gigabytes again."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from workloads.errors import Interrupted
from workloads.storage import pieces
from workloads.system import atomic

THREADS = min(8, os.cpu_count() or 1)
"""Files that are read at once: one thread reads slower than most volumes give."""

REMEMBERED = 10_000
"""Files whose digests are kept in memory's file, the last learnt."""

RACY_SECONDS = 2.0
"""A file changed this recently may change again within its time stamp's resolution: its digest is not remembered."""


def of_text(text: str) -> str:
    """``sha256:…`` of a text; of a name that is not UTF-8, of its bytes."""
    return "sha256:" + hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def of_json(value: Any) -> str:
    """``sha256:…`` of a JSON value, whatever the order of its keys."""
    return of_text(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def of_files(files: Mapping[str, str]) -> str:
    """``sha256:…`` over relative paths and the sha256 (hex) of each: the same for the same contents, wherever they lie."""
    by_name = {os.fsencode(path): digest for path, digest in files.items()}  # bytes: whatever locale reads the names
    lines = b"".join(by_name[name].encode() + b"  " + name + b"\n" for name in sorted(by_name))
    return "sha256:" + hashlib.sha256(lines).hexdigest()


class HashCache:
    """sha256 of files, remembered by path, size, times and inode in ``memory`` (a JSON file)."""

    def __init__(self, memory: Path, heartbeat: Callable[[], None] = lambda: None) -> None:
        self._memory = memory
        self.heartbeat = heartbeat
        """Called for every piece that was read, in the threads that read."""
        self._entries: dict[str, list[Any]] = self._remembered()
        self._changed = False

    def file(self, path: Path, heartbeat: Callable[[], None] | None = None) -> str:
        """sha256 (hex) of a file's content. ``heartbeat`` is called instead of the cache's own."""
        cached = self.cached(path)
        if cached is not None:
            return cached
        before = _fingerprint(path)
        digest = self.compute(path, heartbeat)
        if _fingerprint(path) == before and time.time() - path.stat().st_mtime > RACY_SECONDS:
            self._entries[str(path.resolve())] = [*before, digest]
            self._changed = True
        return digest

    def cached(self, path: Path) -> str | None:
        """The digest, if it is to be had without reading the file."""
        named = _named_by_content(path)
        if named is not None:
            return named
        *fingerprint, digest = self._entries.get(str(path.resolve()), [None])
        return digest if fingerprint == _fingerprint(path) else None

    def files(self, folder: Path, paths: Iterable[str]) -> dict[str, str]:
        """sha256 (hex) of several files below ``folder``, by relative path. They are read in several threads."""
        return _side_by_side(self.file, folder, paths, self.heartbeat)

    def computed(self, folder: Path, paths: Iterable[str]) -> dict[str, str]:
        """The same, read from the files whatever is remembered."""
        return _side_by_side(self.compute, folder, paths, self.heartbeat)

    def compute(self, path: Path, heartbeat: Callable[[], None] | None = None) -> str:
        """sha256 (hex), read from the file whatever is remembered."""
        beat = heartbeat or self.heartbeat
        digest = hashlib.sha256()
        for piece in pieces.of(path, beat):
            digest.update(piece)
        return digest.hexdigest()

    def save(self) -> None:
        """Write down what was learnt. Losing it costs time, never correctness, so a failure is not passed on."""
        if not self._changed:
            return
        try:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            entries = {**self._remembered(), **dict(self._entries)}
            atomic.write_text(self._memory, json.dumps(dict(list(entries.items())[-REMEMBERED:])))
            self._changed = False
        except OSError:
            return

    def _remembered(self) -> dict[str, list[Any]]:
        try:
            entries = json.loads(self._memory.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}


Digest = Callable[[Path, Callable[[], None]], str]


def _side_by_side(digest: Digest, folder: Path, paths: Iterable[str], heartbeat: Callable[[], None]) -> dict[str, str]:
    """hashlib gives the interpreter lock back while it computes. Raises the first error, a request to stop among them, without reading on."""
    stopped = threading.Event()

    def beat() -> None:
        heartbeat()
        if stopped.is_set():
            raise Interrupted("stopped while files were being read")

    names = list(paths)
    with ThreadPoolExecutor(THREADS, "hashing") as threads:
        pending = [threads.submit(digest, folder / name, beat) for name in names]
        try:
            return {name: each.result() for name, each in zip(names, pending, strict=True)}
        finally:
            stopped.set()
            threads.shutdown(wait=True, cancel_futures=True)


def _fingerprint(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _named_by_content(path: Path) -> str | None:
    """The hub's cache names large files by their sha256: ``snapshots/…/model.safetensors -> blobs/<sha256>``."""
    if not path.is_symlink():
        return None
    target = path.resolve()
    name = target.name
    is_digest = len(name) == 64 and all(character in "0123456789abcdef" for character in name)
    return name if is_digest and target.parent.name == "blobs" else None
