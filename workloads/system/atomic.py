"""Writing so that nothing half-written is ever found: flush to disk first, rename last."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def sync(path: Path) -> None:
    """Flush one file or directory to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise  # buckets that are mounted as file systems have no directories to flush
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush every file below ``folder``, then the directories from the leaves up: a rename must not outlive its contents."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(parent, name))
        sync(Path(parent))


def write_text(path: Path, text: str) -> None:
    """Replace a file at once: readers see the old text or the new one."""
    partial = path.with_name(f".{path.name}.{_unique()}.partial")
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
    path.rename(grave)
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
