"""Writing so that nothing half-written is ever found: flush to disk first, rename last."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workloads.errors import WorkloadError
from workloads.system.os_errors import FULL


def sync(path: Path, heartbeat: Callable[[], None] = lambda: None) -> None:
    """Flush one file or directory to disk, calling ``heartbeat`` for every piece that arrived there."""
    handle = os.open(path, os.O_RDONLY)
    try:
        _flush_pieces(handle, heartbeat)
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            error.filename = str(path)
            raise  # buckets that are mounted as file systems have no directories to flush
    finally:
        os.close(handle)


PIECE = 64 * 1024 * 1024
"""Bytes of a file that are flushed at once: a few seconds of a slow volume."""
WRITE_AND_WAIT = 7
"""SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER."""


def _flush_pieces(handle: int, heartbeat: Callable[[], None]) -> None:
    """Write a large file's pages out one piece after another, where the system can. It is no flush yet: fsync follows, with little left to do."""
    size = os.fstat(handle).st_size
    flush = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if size <= PIECE or flush is None:
        return
    for start in range(0, size, PIECE):
        if flush(handle, ctypes.c_int64(start), ctypes.c_int64(PIECE), WRITE_AND_WAIT) != 0:
            return  # whatever is the matter, fsync says it
        heartbeat()


def sync_tree(folder: Path, heartbeat: Callable[[], None] = lambda: None) -> None:
    """Flush every file below ``folder``, then the directories from the leaves up: a rename must not outlive its contents."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(parent, name), heartbeat)
        sync(Path(parent))


def must_be_writable(folder: Path) -> None:
    """Raises OSError, with the folder's name, where nothing can be made in it."""
    probe = folder / f".{_unique()}.probe"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        error.filename = str(folder)
        raise


@contextmanager
def failures_named(folder: Path) -> Iterator[None]:
    """What fails in this block for want of room in ``folder`` ends in the OSError that says so.

    Libraries that write by themselves often name no reason: torch.save speaks of an "unexpected pos", numpy of items written. So the volume is
    asked, before what was half written is removed.
    """
    try:
        yield
    except WorkloadError:
        raise
    except OSError as error:
        if error.errno is None:
            _must_have_room(folder, error)
        elif error.filename is None:
            error.filename = str(folder)
        raise
    except Exception as error:
        _must_have_room(folder, error)
        raise


ROOM = 1024 * 1024
"""Bytes that are written to see whether a volume is full: a quota shows in no other way."""


def _must_have_room(folder: Path, error: Exception) -> None:
    probe = folder / f".{_unique()}.probe"
    try:
        with probe.open("wb") as handle:
            handle.write(b"\0" * ROOM)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as refusal:
        if refusal.errno in FULL:
            raise OSError(refusal.errno, os.strerror(refusal.errno or 0), str(folder)) from error
    finally:
        with suppress(OSError):
            probe.unlink()


STALE_SECONDS = 24 * 3600.0
"""After this long without a change, what somebody was making is taken for left behind. Nothing else tells: a volume may have no locks."""


@contextmanager
def made_once(folder: Path, heartbeat: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A new folder to write into; it becomes ``folder`` when the block ends well, and disappears when it does not.

    Runs that make the same at once each write to a folder of their own, and the first rename decides: the others' work is thrown away. So
    nobody depends on locks, which not every volume has.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in filter(_is_stale, stale_siblings(folder, "partial")):
        shutil.rmtree(leftover, ignore_errors=True)
    partial = partial_beside(folder)
    partial.mkdir()
    try:
        with failures_named(partial):
            yield partial
            sync_tree(partial, heartbeat)
        try:
            partial.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_stale(folder: Path) -> bool:
    try:
        return time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir())) > STALE_SECONDS
    except FileNotFoundError:
        return False  # it was finished, or removed, while it was looked at


def partial_beside(path: Path) -> Path:
    """A name that nobody else has, to write to before it is renamed to ``path``."""
    return path.with_name(f".{path.name}.{_unique()}.partial")


def write_text(path: Path, text: str) -> None:
    """Replace a file at once: readers see the old text or the new one."""
    partial = partial_beside(path)
    with partial.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(path)
    sync(path.parent)


def discard(path: Path) -> None:
    """Remove a file or folder, where there is one. It is renamed first, so that a half-removed folder is never taken for a whole one."""
    if not path.exists():
        return
    grave = path.with_name(f".{path.name}.{_unique()}.discarded")
    try:
        path.rename(grave)
    except FileNotFoundError:
        return  # another run was faster
    if grave.is_dir():
        shutil.rmtree(grave)
    else:
        grave.unlink()


def replace_dir(new: Path, target: Path, run_id: str) -> None:
    """Put the folder ``new`` in the place of ``target``, a sibling of it, and remove what was there.

    A directory cannot be renamed over one that has files in it, so the old one steps aside for a moment; ``recover`` brings it
    back when the machine dies in between.
    """
    aside = None
    if target.exists():
        aside = target.with_name(f".{target.name}.{run_id}.replaced")
        target.rename(aside)
    new.rename(target)
    sync(target.parent)
    if aside is not None:
        shutil.rmtree(aside)


def put_aside_and_back(target: Path, run_id: str) -> None:
    """What ``replace_dir`` will do to a folder that is there. Raises OSError where the system refuses it: a mount point is busy, a folder
    of an image's lower layer is on another device, another user's under a sticky bit is not ours to move."""
    if target.exists():
        aside = target.with_name(f".{target.name}.{run_id}.replaced")
        target.rename(aside)
        aside.rename(target)


def recover(target: Path) -> None:
    """Undo a ``replace_dir`` that was cut short: the old folder goes back to its place if the new one never got there."""
    for aside in stale_siblings(target, "replaced"):
        if target.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(target)
            sync(target.parent)


def stale_siblings(target: Path, ending: str) -> Iterator[Path]:
    """Siblings of ``target`` that earlier runs left behind: ``.<name>.<run>.<ending>``.

    The name of a run has no dot, so that those of an output ``poet.v2`` are not taken for those of ``poet``.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[^.]+\.{ending}")
    if target.parent.is_dir():
        yield from sorted(path for path in target.parent.iterdir() if pattern.fullmatch(path.name))


def _unique() -> str:
    """A name of its own for each write. A process id would not do: on a shared volume every pod has the same."""
    return secrets.token_hex(4)


@contextmanager
def file_lock(folder: Path, heartbeat: Callable[[], None]) -> Iterator[None]:
    """One process at a time makes ``folder``; the others wait, calling ``heartbeat``."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        while not _locked(lock.fileno()):
            heartbeat()
            time.sleep(0.2)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A volume without locks: two runs may prepare the same, and the rename decides.
        return True
    return True
