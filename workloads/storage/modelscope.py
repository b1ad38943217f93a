"""``ms://[datasets/]org/name[@revision][/path]``: a model or data set of ModelScope.

Every file is fetched at the commit that the revision was when it was asked for, compared with its digest, and goes on where a download
was broken off.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from workloads.errors import InputError
from workloads.storage.hub import HubUnreachable, Repository, parse
from workloads.storage.modelscope_api import MASTER, TOKEN, File, HubRefuses, Listing, Site
from workloads.storage.pieces import CHUNK
from workloads.system.describe import some


def fetch(
    uri: str,
    content: str,
    where: str,
    cache: Path,
    keep: Callable[[list[str]], Iterable[str]],
    heartbeat: Callable[[], None],
) -> Path:
    """The local path of what ``uri`` names: links to files that are each downloaded once. ``keep`` chooses among the names below the path.

    Raises InputError when it does not exist or may not be read, HubUnreachable when asking again may help.
    """
    repository = parse(uri, content, where)
    site = Site(os.environ, heartbeat)
    try:
        listing = _listed(site, repository, where)
        names = _chosen(repository, listing, keep, where)
        folder = f"{repository.kind}s--{repository.name.replace('/', '--')}"
        snapshot = cache / "modelscope" / "snapshots" / folder / listing.revision
        blobs = cache / "modelscope" / "blobs"
        for name in names:
            _link(snapshot / name, _blob(site, repository, listing, name, blobs, heartbeat))
    except HubRefuses as error:
        raise InputError(_refusal(site, repository, error, where)) from error
    except HubUnreachable as error:
        raise HubUnreachable(f"{where}: {site.endpoint}: {error}") from error
    finally:
        site.close()
    return snapshot / repository.path if repository.path else snapshot


def token_state(environ: Mapping[str, str]) -> str:
    """The variable of the token as messages name it."""
    return f"{TOKEN}, which is {'set' if environ.get(TOKEN) else 'not set (in a pod: secretRef)'}"


def _refusal(site: Site, repository: Repository, error: HubRefuses, where: str) -> str:
    token = token_state(os.environ)
    if error.status == 404:
        return f"{where}: {site.endpoint} has no {repository.kind} {repository.name}, or it is private: check the name, and the token in {token}"
    if error.status in (401, 403):
        return (
            f"{where}: {site.endpoint} refuses {repository.name} ({error}): check the token in {token}, and whether its account has accepted "
            f"the terms at {site.endpoint}/{repository.kind}s/{repository.name}"
        )
    return f"{where}: {site.endpoint} refuses {repository.name} ({error}): download it to a volume, and name its folder"


def _listed(site: Site, repository: Repository, where: str) -> Listing:
    revision = repository.revision or MASTER
    listing = site.listing(repository.kind, repository.name, revision)
    if listing is None:
        raise InputError(f"{where}: {repository.name} has no revision {revision!r}, or nothing in it: check the name")
    for path in listing.files:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise InputError(f"{where}: its file {path!r} leads out of the folder: it cannot be read from here")
    return listing


def _chosen(
    repository: Repository, listing: Listing, keep: Callable[[list[str]], Iterable[str]], where: str
) -> list[str]:
    """Paths in the repository."""
    if repository.path in listing.files:
        return [repository.path]
    below = f"{repository.path}/" if repository.path else ""
    there = sorted(path.removeprefix(below) for path in listing.files if path.startswith(below))
    if not there:
        raise InputError(f"{where}: {repository.name} has no {repository.path}: it has {some(sorted(listing.files))}")
    names = sorted(keep(there))
    if not names:
        raise InputError(f"{where}: it holds {some(there)}, and nothing that is read here")
    return [f"{below}{name}" for name in names]


def _blob(
    site: Site, repository: Repository, listing: Listing, name: str, folder: Path, heartbeat: Callable[[], None]
) -> Path:
    """By its digest, as the hub's cache has its large files: what reads it need not compute that again."""
    file = listing.files[name]
    path = folder / file.sha256
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{file.sha256}.partial")  # of one name, so that the next run goes on with it
    with partial.open("ab+") as copy:
        _wait_for_others(copy, heartbeat)
        if path.exists():
            partial.unlink(missing_ok=True)
            return path
        revision = listing.commit or repository.revision or MASTER
        _download(copy, file, lambda start: site.stream(repository.kind, repository.name, revision, name, start))
        if _sha256(copy, heartbeat) != file.sha256:
            partial.unlink()
            raise HubUnreachable(f"{name} is not what was announced")
        partial.replace(path)
    return path


def _download(copy: BinaryIO, file: File, stream: Callable[[int], tuple[int, Iterable[bytes]]]) -> None:
    """What is missing. Asked for again as often as something came before it broke off."""
    while (had := os.fstat(copy.fileno()).st_size) < file.size:
        try:
            start, pieces = stream(had)
            if start != had:
                copy.truncate(start)
            for piece in pieces:
                copy.write(piece)
        except HubUnreachable:
            copy.flush()
            if os.fstat(copy.fileno()).st_size <= had:
                raise
        else:
            copy.flush()
            if os.fstat(copy.fileno()).st_size < file.size:
                raise HubUnreachable(f"it sent fewer than {file.size} bytes of a file")


def _sha256(copy: BinaryIO, heartbeat: Callable[[], None]) -> str:
    read = hashlib.sha256()
    copy.seek(0)
    while piece := copy.read(CHUNK):
        read.update(piece)
        heartbeat()
    return read.hexdigest()


def _wait_for_others(copy: BinaryIO, heartbeat: Callable[[], None]) -> None:
    """Until no other process downloads the same file; the lock goes when ``copy`` is closed."""
    while True:
        try:
            fcntl.flock(copy, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            heartbeat()
            time.sleep(0.5)
        else:
            return


def _link(target: Path, blob: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(os.path.relpath(blob, target.parent))
