"""``pvc://claim/path``, ``file:///path`` and plain paths, as paths of this machine."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from workloads.errors import SpecError
from workloads.system.environment import Environment

REJECTED = "rejected"
"""Ending of the folder beside an output with the report on a result that was not published."""


def local_path(uri: str, environment: Environment, where: str) -> Path:
    """The path behind ``pvc://``, ``file://`` or a plain path. Relative paths start in the current directory.

    Raises SpecError, which begins with ``where`` (the field and the uri), for what is no path, and for one that climbs out of its claim.
    """
    if "\0" in (unquote(uri) if uri.startswith("file://") else uri):
        raise SpecError(f"{where}: a path holds no NUL: remove it")
    try:
        os.fsencode(uri)
    except UnicodeEncodeError:
        uri = os.fsdecode(uri.encode())  # a locale without these characters: names are UTF-8 all the same
    if uri.startswith("pvc://"):
        claim, _, rest = uri.removeprefix("pvc://").partition("/")
        root = environment.claims / claim
        path = Path(os.path.normpath(root / rest))
        if not claim or claim in (".", "..") or not path.is_relative_to(root):
            raise SpecError(f"{where} leaves its claim: write pvc://<claim>/<path without ..>")
        return path
    if uri.startswith("file://"):
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost"):
            raise SpecError(f"{where} names the host {parts.netloc!r}: write file:///path, with three slashes")
        return Path(unquote(parts.path))
    try:
        return Path(os.path.normpath(Path(uri).expanduser().absolute()))
    except RuntimeError as error:
        raise SpecError(f"{where}: nobody knows this home directory: write the whole path") from error


def hub_name(uri: str) -> str:
    """``hf://owner/name@revision`` → ``owner/name``, and of ``ms://`` too."""
    return uri.partition("://")[2].partition("@")[0]
