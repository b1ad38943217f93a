"""Where inputs are read from and outputs go: a URI becomes a local path.

``pvc://claim/path``, ``file:///path`` and plain paths are looked up; ``hf://`` and ``s3://`` are brought into the cache (see
``hub.py`` and ``s3.py``).
"""

from __future__ import annotations

import difflib
import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Protocol
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from alpaca_operator.api import contract
from alpaca_operator.api.base import Model, Source, sources
from alpaca_operator.api.status import ResolvedInput
from workloads.errors import InputError, SpecError
from workloads.storage import hashing
from workloads.storage.checkpoints import FENCE, Fence, FileFence, Run
from workloads.storage.hashing import Digests
from workloads.system import atomic
from workloads.system.environment import Environment

MODEL_FILES = (".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken")
"""What a model, adapter or tokenizer is loaded from. The rest of its folder (a README, pickled weights) shapes no result, and
is neither downloaded nor digested."""

TOKENIZER_FILES = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja",
    "merges.txt", "vocab.json",
)  # fmt: skip
"""What a tokenizer is loaded from, in a folder that may hold a model besides."""

REPORT_FILE = "report.json"
"""Figures about a model, times among them: nothing that is loaded with it."""

PICKLED = (".bin",)
"""Weights of models published before safetensors: they count where there is nothing else."""

REJECTED = "rejected"
"""Ending of the folder beside an output with the report on a result that was not published."""

LOADED = {"Model": (MODEL_FILES, PICKLED), "Adapter": (MODEL_FILES, PICKLED), "Tokenizer": (TOKENIZER_FILES, ())}
"""Endings of the files that a hub's repository is downloaded for, and those to fall back to; of other contents everything."""


@dataclass(frozen=True)
class Input:
    """A source of the spec, found."""

    uri: str
    path: Path
    """A file or folder on this machine."""
    digest: str
    """``sha256:…`` of what lies there."""


class Inputs(dict[str, Input]):
    """Inputs by the path of their field in the spec, such as ``model`` or ``dataset.train[0]``, in the order of the spec."""


def collect(spec: Model, environment: Environment, known: Digests, beat: Callable[[], None]) -> Inputs:
    """Find every source of the spec and digest it. Raises InputError for the first that is missing or cannot be read."""
    inputs = Inputs()
    for field, source in sources(spec):
        try:
            path = locate(source, field, environment, beat)
            digest = content_digest(path, source, f"spec.{field}.uri: {source.uri}", known)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # the cache is full; the input is not to blame
            raise InputError(f"spec.{field}.uri: {source.uri}: {_cannot_read(error)}") from error
        inputs[field] = Input(str(source.uri), path, digest)
    known.remember()
    return inputs


def must_be_as_published(inputs: Inputs, at_start: Mapping[str, ResolvedInput]) -> None:
    """Hold what lies there against what other jobs had published when this job started, which a restart must not change.

    Raises InputError for the first that is another.
    """
    for field, found in at_start.items():
        if found.digest is not None and field in inputs and inputs[field].digest != found.digest:
            raise InputError(
                f"spec.{field}: {found.uri} was {found.digest} when this job started, and is {inputs[field].digest} now: what lies there was "
                "replaced or damaged; a job of another name takes it as it is"
            )


def locate(source: Source, field: str, environment: Environment, beat: Callable[[], None]) -> Path:
    """The local path of a source, after a download where it needs one."""
    uri = source.uri
    assert uri is not None, f"spec.{field}.from is resolved before a run starts"
    where = f"spec.{field}.uri: {uri}"
    if uri.startswith("hf://"):
        from workloads.storage import hub

        path = hub.fetch(uri, source.content, LOADED.get(source.content), where, environment.hub_cache, beat)
    elif uri.startswith("s3://"):
        from workloads.storage import s3

        path = s3.fetch(uri, where, environment.cache, lambda names: relevant(names, source.content), beat)
    else:
        path = local_path(uri, environment)
    _must_be_readable(path, where)
    if source.content in ("Model", "Adapter"):
        _must_be_a_model(path, source, where)
    return path


def local_path(uri: str, environment: Environment) -> Path:
    """The path behind ``pvc://``, ``file://`` or a plain path. Relative paths start in the current directory.

    Raises SpecError for a path that climbs out of its claim.
    """
    if uri.startswith("pvc://"):
        claim, _, rest = uri.removeprefix("pvc://").partition("/")
        root = environment.claims / claim
        path = Path(os.path.normpath(root / rest))
        if not claim or claim in (".", "..") or not path.is_relative_to(root):
            raise SpecError(f"{uri} leaves its claim: write pvc://<claim>/<path without ..>")
        return path
    if uri.startswith("file://"):
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost"):
            raise SpecError(f"{uri} names the host {parts.netloc!r}: write file:///path, with three slashes")
        return Path(unquote(parts.path))
    return Path(os.path.normpath(Path(uri).expanduser().absolute()))


def relevant(names: Sequence[str], content: str) -> list[str]:
    """Those files of a folder that a source of this content consists of, by relative path."""
    names = [name for name in names if name != contract.ARTIFACT_FILE]
    if content in LOADED:
        names = [name for name in names if name != REPORT_FILE]
    if content == "Tokenizer":
        return [name for name in names if name in TOKENIZER_FILES] or names
    if content not in ("Model", "Adapter"):
        return names
    has_safetensors = any(name.endswith(".safetensors") for name in names)
    return [name for name in names if name.endswith(MODEL_FILES if has_safetensors else MODEL_FILES + PICKLED)]


def content_digest(path: Path, source: Source, where: str, known: Digests) -> str:
    """The digest of an artifact where one lies there; else of the contents. Raises InputError for a damaged artifact."""
    if path.is_file():
        return f"sha256:{known.file(path)}"
    artifact = read_artifact(path)
    if artifact is None:
        _must_not_be_half_copied(path, where)
        return hashing.of_files(known.files(path, relevant(hashing.listing(path), source.content)))
    wanted = set(relevant([file.path for file in artifact.files], source.content))
    files = [file for file in artifact.files if file.path in wanted]
    if damage := sizes_differ(path, files) or contents_differ(path, files, known):
        by = " ".join(artifact.job[key] for key in ("kind", "name") if key in artifact.job) or "a job"
        raise InputError(
            f"{where}: what lies there is not what {by} published ({damage}): copy it again, or remove its {contract.ARTIFACT_FILE} to "
            "take it as it is"
        )
    return artifact.digest


def read_artifact(folder: Path) -> contract.Artifact | None:
    """The artifact.json of a folder; None where there is none, or none that can be read."""
    try:
        return contract.Artifact.model_validate_json((folder / contract.ARTIFACT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None


def _must_not_be_half_copied(folder: Path, where: str) -> None:
    """Raises InputError for an artifact.json that breaks off. One that is whole and not ours is a file like any other."""
    file = folder / contract.ARTIFACT_FILE
    if not file.is_file():
        return
    try:
        json.loads(file.read_bytes())
    except ValueError as error:
        raise InputError(f"{where}: {file} is damaged ({error}): copy the folder again, or remove that file") from error


def sizes_differ(folder: Path, files: Sequence[contract.ArtifactFile]) -> str | None:
    """What is missing or cut short of an artifact's files; None when each has its size."""
    for file in files:
        path = folder / file.path
        if not path.is_file():
            return f"{file.path} is missing"
        size = path.stat().st_size
        if size != file.size:
            return f"{file.path} has {size} bytes instead of {file.size}"
    return None


def _must_be_readable(path: Path, where: str) -> None:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{where}: {_what_lies_there(path)}") from None
    except OSError as error:
        raise InputError(f"{where}: cannot look at {path}: {error.strerror}") from error
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise InputError(f"{where}: {_may_not_be_read(path)}")
    if not (path.is_file() or path.is_dir()):
        raise InputError(f"{where}: {path} is neither a file nor a folder: a pipe or device cannot be read twice")
    if path.is_dir() and not any(path.iterdir()):
        raise InputError(f"{where}: the folder {path} is empty")


def _cannot_read(error: OSError) -> str:
    if isinstance(error, PermissionError) and error.filename:
        return _may_not_be_read(error.filename)
    return f"cannot read {error.filename or 'it'}: {error.strerror or error}"


def _may_not_be_read(path: Path | str) -> str:
    """safetensors writes files that only their owner may read, which in a pod is seldom the user that trains."""
    return f"{path} may not be read by user {os.getuid()}: chmod -R a+rX {path}, or change its owner"


def _what_lies_there(path: Path) -> str:
    """Why ``path`` is missing, told by the deepest folder above it that exists."""
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
    there = f"holds {_some(names)}" if names else "is empty"
    return f"{path} does not exist: {above} {there}{hint}"


def _some(names: list[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _must_be_a_model(path: Path, source: Source, where: str) -> None:
    """Refuse a folder that cannot be loaded before torch is imported, which takes seconds."""
    config = "adapter_config.json" if source.content == "Adapter" else "config.json"
    if not path.is_dir():
        raise InputError(f"{where}: {path} is a file: name the folder that holds {config}")
    if not (path / config).is_file():
        folders = sorted(str(found.parent.relative_to(path)) for found in path.glob(f"*/{config}"))
        hint = f"; {_some(folders)} below it does" if folders else ""
        raise InputError(f"{where}: {path} has no {config}{hint}; it holds {_some(sorted(os.listdir(path)))}")
    for weights in path.glob("*.safetensors"):
        with weights.open("rb") as handle:
            if handle.read(24) == b"version https://git-lfs.":
                raise InputError(
                    f"{where}: {weights} is a Git LFS pointer, not the weights: run `git lfs pull` in {path}"
                )


class OutputPlace(Protocol):
    """The place that an output goes to."""

    uri: str
    staging: Path
    """Where the result is written before it is published; the same file system as the final place, where that is local."""
    checkpoints: Path
    checkpoints_are_kept: bool
    """Whether they outlive this pod."""

    def fence(self, run: Run) -> Fence:
        """What keeps a run that was overtaken from publishing. It lies where the output does: runs need share nothing else."""

    def prepare(self) -> None:
        """Make sure, before hours of work, that something can be written there. Raises SpecError when nothing can."""

    def tidy(self) -> None:
        """Mend and remove what interrupted runs left behind."""

    def artifact(self) -> contract.Artifact | None:
        """The artifact that lies there."""

    def damage(self, artifact: contract.Artifact, known: Digests) -> str | None:
        """What is wrong with its files; None when they are whole."""

    def is_taken(self) -> bool:
        """Something lies there, artifact or not."""

    def holds_artifact_file(self) -> bool:
        """An artifact.json lies there, whether it can be read or not."""

    def publish(self, folder: Path) -> None:
        """Put ``folder``, artifact.json included, in place. What `reject` left beside it goes: it speaks of another result."""

    def reject(self, folder: Path) -> str:
        """Put ``folder``, the report on a result that is not published, beside the place; returns its URI."""


def output_place(
    uri: str, inputs: Mapping[str, Input], environment: Environment, beat: Callable[[], None]
) -> OutputPlace:
    """Where the output goes. Raises SpecError for a place that cannot take one."""
    if uri.startswith("s3://"):
        from workloads.storage import s3

        bucket = s3.Bucket(uri, environment, beat)
        _must_not_touch_inputs(
            PurePosixPath(bucket.uri),
            uri,
            {
                field: (found.uri, PurePosixPath(found.uri))
                for field, found in inputs.items()
                if found.uri.startswith("s3://")
            },
        )
        return bucket
    place = LocalFolder(uri, environment)
    _must_not_touch_inputs(
        place.path.resolve(), uri, {field: (found.uri, found.path.resolve()) for field, found in inputs.items()}
    )
    return place


class LocalFolder:
    """An output on a file system: written to a sibling and renamed."""

    def __init__(self, uri: str, environment: Environment) -> None:
        self.uri = uri
        path = local_path(uri, environment)
        self.path = path.resolve() if path.is_symlink() else path  # the folder is replaced, not the link to it
        self._run_id = environment.run_id
        if uri.startswith("pvc://") and self.path.parent == environment.claims:
            raise SpecError(
                f"spec.output.uri: {uri} is the root of its claim, which cannot be replaced at once: name a folder in it, such as {uri.rstrip('/')}/result"
            )
        if environment.in_pod and uri.startswith("pvc://"):
            claim = environment.claims / uri.removeprefix("pvc://").split("/")[0]
            if not claim.is_dir():
                raise InputError(f"spec.output.uri: {uri}: the claim is not mounted at {claim}")
        self.staging = self.path.with_name(f".{self.path.name}.{self._run_id}.partial")
        self.checkpoints = self.path.with_name(f"{self.path.name}.checkpoints")
        self.checkpoints_are_kept = True

    def fence(self, run: Run) -> Fence:
        return FileFence(self.checkpoints / FENCE, run)

    def prepare(self) -> None:
        """Raises SpecError when nothing can be written there."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            probe = self.staging.with_suffix(".probe")
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # room may be made; a wrong owner or a read-only volume stays
            raise SpecError(
                f"spec.output.uri: {self.uri}: user {os.getuid()} cannot write to {error.filename or self.path.parent}: {error.strerror}"
            ) from error

    def tidy(self) -> None:
        atomic.recover(self.path)
        for leftover in (
            *atomic.leftovers(self.path, "partial"),
            *atomic.leftovers(self.path, "discarded"),
            *atomic.leftovers(self.checkpoints, "discarded"),
            *atomic.leftovers(self._rejected, "discarded"),
            *atomic.leftovers(self._rejected, "replaced"),
        ):
            shutil.rmtree(leftover, ignore_errors=True)

    def artifact(self) -> contract.Artifact | None:
        atomic.recover(self.path)
        return read_artifact(self.path)

    def damage(self, artifact: contract.Artifact, known: Digests) -> str | None:
        return sizes_differ(self.path, artifact.files) or contents_differ(self.path, artifact.files, known)

    def is_taken(self) -> bool:
        return self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir()))

    def holds_artifact_file(self) -> bool:
        return (self.path / contract.ARTIFACT_FILE).is_file()

    def publish(self, folder: Path) -> None:
        _readable_alike(folder)
        atomic.sync_tree(folder)
        atomic.swap_in(folder, self.path, self._run_id)
        atomic.discard(self._rejected)

    def reject(self, folder: Path) -> str:
        atomic.sync_tree(folder)
        atomic.swap_in(folder, self._rejected, self._run_id)
        return f"{self.uri.rstrip('/')}.{REJECTED}"

    @property
    def _rejected(self) -> Path:
        return self.path.with_name(f"{self.path.name}.{REJECTED}")


def _readable_alike(folder: Path) -> None:
    """Give every file the mode of artifact.json, which is the user's umask: safetensors makes weights that nobody else may read."""
    mode = (folder / contract.ARTIFACT_FILE).stat().st_mode & 0o777
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


CHEAP_BYTES = 1024 * 1024 * 1024
"""About a second and a half of reading: as much as is verified on each start of a job whose output is there already."""


def contents_differ(folder: Path, files: Sequence[contract.ArtifactFile], known: Digests) -> str | None:
    """A file whose content is not what artifact.json says. Small files first, and only as many as are cheap to read."""
    budget = CHEAP_BYTES
    for file in sorted(files, key=lambda file: file.size):
        path = folder / file.path
        digest = known.known(path)
        if digest is None:
            budget -= file.size
            if budget < 0:
                return None
            digest = known.file(path)
        if digest != file.sha256:
            return f"the content of {file.path} has changed"
    return None


def _must_not_touch_inputs(output: PurePath, uri: str, inputs: Mapping[str, tuple[str, PurePath]]) -> None:
    """An output in an input changes what the job was made from; an input in an output is replaced with it."""
    for field, (input_uri, path) in inputs.items():
        inside, outside = output.is_relative_to(path), path.is_relative_to(output)
        if inside or outside:
            relation = "is" if inside and outside else "lies in" if inside else "contains"
            raise SpecError(
                f"spec.output.uri: {uri} {relation} the input spec.{field} ({input_uri}): name another folder"
            )
