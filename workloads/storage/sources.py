"""The inputs of a job: each source of its spec located on this machine, downloaded where it has to be, and digested.

``pvc://claim/path``, ``file:///path`` and plain paths are looked up; ``hf://``, ``ms://``, ``s3://`` and ``oci://`` are brought into the
cache (see ``hub.py``, ``modelscope.py``, ``s3.py`` and ``oci.py``).
"""

from __future__ import annotations

import difflib
import errno
import fnmatch
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from alpaca_operator.api.contract import ARTIFACT_FILE
from alpaca_operator.api.model import Model
from alpaca_operator.api.sources import Source, sources
from alpaca_operator.api.status import ResolvedInput
from workloads.errors import InputError
from workloads.storage.contents import LOADED, Verification, content_digest, relevant
from workloads.storage.hashing import HashCache
from workloads.storage.listing import listing
from workloads.storage.pointers import refuse_pointers
from workloads.storage.uri import local_path
from workloads.system.describe import some
from workloads.system.environment import Environment
from workloads.system.os_errors import FULL, is_below, sentence


@dataclass(frozen=True)
class Input:
    """A source of the spec, located and digested."""

    uri: str
    path: Path
    """A file or folder on this machine."""
    digest: str
    """``sha256:…`` of what lies there."""


class Inputs(dict[str, Input]):
    """Inputs by the path of their field in the spec, such as ``model`` or ``dataset.train[0]``, in the order of the spec."""


def collect(
    spec: Model,
    environment: Environment,
    hashes: HashCache,
    heartbeat: Callable[[], None],
    later: Verification | None = None,
) -> Inputs:
    """Find every source of the spec and digest it. Raises InputError for the first that is missing or cannot be read.

    Large files of what other jobs published are compared with their digests by ``later``; without it all are compared before this returns.
    """
    inputs = Inputs()
    for field, source in sources(spec):
        inputs[field] = find(source, field, environment, hashes, heartbeat, later)
    hashes.save()
    return inputs


def find(
    source: Source,
    field: str,
    environment: Environment,
    hashes: HashCache,
    heartbeat: Callable[[], None],
    later: Verification | None = None,
) -> Input:
    """Find one source, which the spec names at ``field``, and digest it; ``later`` as of `collect`. Raises InputError."""
    try:
        path = locate(source, field, environment, heartbeat)
        digest = content_digest(path, source, f"spec.{field}.uri: {source.uri}", hashes, later)
    except OSError as error:
        if error.errno in FULL or is_below(error.filename, environment.cache):
            raise  # it is the cache, and the input is not to blame
        raise InputError(f"spec.{field}.uri: {source.uri}: {sentence(error, source.uri or '', 'read')}") from error
    return Input(str(source.uri), path, digest)


def must_be_as_published(inputs: Inputs, at_start: Mapping[str, ResolvedInput]) -> None:
    """Hold what lies there against what other jobs had published when this job started, which a restart must not change.

    Raises InputError for the first that is another.
    """
    for field, published in at_start.items():
        if published.digest is not None and field in inputs and inputs[field].digest != published.digest:
            raise InputError(
                f"spec.{field}: {published.uri} was {published.digest} when this job started, and is {inputs[field].digest} now: what lies there was "
                "replaced or damaged; a job of another name takes it as it is"
            )


def locate(source: Source, field: str, environment: Environment, heartbeat: Callable[[], None]) -> Path:
    """The local path of a source, after a download where it needs one."""
    uri = source.uri
    assert uri is not None, f"spec.{field}.from is resolved before a run starts"
    where = f"spec.{field}.uri: {uri}"
    if uri.startswith("hf://"):
        from workloads.storage import hub

        path = hub.fetch(uri, source.content, LOADED.get(source.content), where, environment.hub_cache, heartbeat)
    elif uri.startswith("ms://"):
        from workloads.storage import modelscope

        path = modelscope.fetch(
            uri,
            source.content,
            where,
            environment.cache,
            lambda names: _wanted_of_hub(names, source.content),
            heartbeat,
        )
    elif uri.startswith("s3://"):
        from workloads.storage import s3

        path = s3.fetch(uri, where, environment.cache, lambda names: relevant(names, source.content), heartbeat)
    elif uri.startswith("oci://"):
        from workloads.storage import oci

        path = oci.fetch(uri, where, environment.cache, lambda names: _wanted(names, source.content), heartbeat)
    else:
        path = local_path(uri, environment, where)
    _must_be_readable(path, where)
    if source.content in ("Model", "Adapter"):
        _must_be_a_model(path, source, where)
    if path.is_dir():
        refuse_pointers(path, relevant(listing(path), source.content), where)
    else:
        refuse_pointers(path.parent, [path.name], where)
    return path


def _wanted(names: list[str], content: str) -> list[str]:
    """With what says of them that a job made them."""
    return [*relevant(names, content), *(name for name in names if name == ARTIFACT_FILE)]


def _wanted_of_hub(names: list[str], content: str) -> list[str]:
    from workloads.storage.hub import ORIGINALS

    if content in LOADED:
        names = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in ORIGINALS)]
    return _wanted(names, content)


def _must_be_readable(path: Path, where: str) -> None:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{where}: {_what_lies_there(path)}") from None
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if not (path.is_file() or path.is_dir()):
        raise InputError(f"{where}: {path} is neither a file nor a folder: a pipe or device cannot be read twice")
    if path.is_dir() and not any(path.iterdir()):
        raise InputError(f"{where}: the folder {path} is empty")


def _what_lies_there(path: Path) -> str:
    """Why ``path`` is missing, as the deepest folder above it that exists shows."""
    above = path.parent
    missing = path
    while not above.exists():
        missing, above = above, above.parent
    if not above.is_dir():
        return f"{path} does not exist, because {above} is a file"
    try:
        names = sorted(
            entry.name + ("/" if entry.is_dir() else "") for entry in above.iterdir() if not entry.name.startswith(".")
        )
    except OSError as error:
        return f"{path} does not exist, and {above} cannot be listed: {error.strerror}"
    close = difflib.get_close_matches(missing.name, [name.rstrip("/") for name in names], n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    there = f"holds {some(names)}" if names else "is empty"
    return f"{path} does not exist: {above} {there}{hint}"


def _must_be_a_model(path: Path, source: Source, where: str) -> None:
    """Refuse a folder that cannot be loaded before torch is imported, which takes seconds."""
    config, other = "config.json", "adapter_config.json"
    remedy = "that is an adapter: name its base there, and the adapter where the spec takes one, or merge them first (MergeJob)"
    if source.content == "Adapter":
        config, other, remedy = other, config, "that is a model: name it under model"
    if not path.is_dir():
        raise InputError(f"{where}: {path} is a file: name the folder that holds {config}")
    if "GGUFModel" in source.accepts and any(path.glob("*.gguf")):
        return  # whoever loads it knows whether it can
    if not (path / config).is_file():
        folders = sorted(str(found.parent.relative_to(path)) for found in path.glob(f"*/{config}"))
        hint = f"; {some(folders)} below it does" if folders else ""
        if (path / other).is_file():
            hint = f" but {other}: {remedy}"
        raise InputError(f"{where}: {path} has no {config}{hint}; it holds {some(sorted(os.listdir(path)))}")
