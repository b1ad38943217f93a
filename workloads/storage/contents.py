"""What a folder consists of for a job that reads it: which files count, their digest, and whether they are as published."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from pydantic import ValidationError

from alpaca_operator.api import contract
from alpaca_operator.api.sources import Source
from workloads.errors import InputError, Interrupted
from workloads.storage import hashing
from workloads.storage.hashing import HashCache
from workloads.storage.listing import listing

MODEL_FILES = (".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken")
"""What a model, adapter or tokenizer is loaded from. The rest of its folder (a README, pickled weights) shapes no result, and
is neither downloaded nor digested."""


TOKENIZER_FILES = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja",
    "merges.txt", "vocab.json",
)  # fmt: skip
"""What a tokenizer is loaded from, in a folder that may hold a model besides."""
WHOLE_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
"""Each of them is a whole tokenizer by itself, so that a uri may name it for its folder."""
VOCABULARY_FILES = (*WHOLE_TOKENIZERS, "vocab.json")
"""One of them lies in every folder that a tokenizer is loaded from."""


REPORT_FILE = "report.json"
"""Figures about a model, times among them: nothing that is loaded with it."""


PICKLED = (".bin",)
"""Weights of models published before safetensors: they count where there is nothing else."""


GGUF = (".gguf",)
"""A file that is a model with its tokenizer, where no config.json lies beside it."""


LOADED = {"Model": (MODEL_FILES, PICKLED), "Adapter": (MODEL_FILES, PICKLED), "Tokenizer": (TOKENIZER_FILES, ())}
"""Endings of the files that a hub's repository is downloaded for, and those to fall back to; of other contents everything."""


def relevant(names: Sequence[str], content: str) -> list[str]:
    """Those files of a folder that a source of this content consists of, by relative path."""
    names = [name for name in names if name != contract.ARTIFACT_FILE]
    if content in LOADED:
        names = [name for name in names if name != REPORT_FILE]
    if content == "Tokenizer":
        return [name for name in names if name in TOKENIZER_FILES] or names
    if content not in ("Model", "Adapter"):
        return names
    if content == "Model" and "config.json" not in names and any(name.endswith(GGUF) for name in names):
        return [name for name in names if name.endswith(GGUF) or name == "generation_config.json"]
    has_safetensors = any(name.endswith(".safetensors") for name in names)
    return [name for name in names if name.endswith(MODEL_FILES if has_safetensors else MODEL_FILES + PICKLED)]


def content_digest(path: Path, source: Source, where: str, hashes: HashCache, later: Verification | None) -> str:
    """The digest of an artifact where one lies there; else of the contents. Raises InputError for a damaged artifact.

    Of an artifact, ``later`` compares the files that take long to read; without it all are compared here.
    """
    if path.is_file():
        return f"sha256:{hashes.file(path)}"
    artifact = read_artifact(path)
    if artifact is None:
        _must_not_be_half_copied(path, where)
        return hashing.of_files(hashes.files(path, relevant(listing(path), source.content)))
    wanted = set(relevant([file.path for file in artifact.files], source.content))
    files = [file for file in artifact.files if file.path in wanted]
    by = " ".join(artifact.job[key] for key in ("kind", "name") if key in artifact.job) or "a job"
    now = files if later is None else cheap(path, files, hashes)
    if damage := sizes_differ(path, files) or contents_differ(path, now, hashes):
        raise damaged(where, by, damage)
    if later is not None:
        later.add(where, by, path, [file for file in files if file not in now], len(files))
    return artifact.digest


def damaged(where: str, by: str, damage: str) -> InputError:
    """The error of an input that is not what ``by`` published."""
    return InputError(
        f"{where}: what lies there is not what {by} published ({damage}): copy it again, or remove its {contract.ARTIFACT_FILE} to "
        "take it as it is"
    )


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


CHEAP_BYTES = 1024 * 1024 * 1024
"""About a second and a half of reading: as much of an input is compared before the run goes on."""


def cheap(folder: Path, files: Sequence[contract.ArtifactFile], hashes: HashCache) -> list[contract.ArtifactFile]:
    """Those files that are compared at once: whose digest is known, and the smallest others, CHEAP_BYTES together."""
    budget = CHEAP_BYTES
    chosen = []
    for file in sorted(files, key=lambda file: file.size):
        path = folder / file.path
        known = path.is_file() and hashes.cached(path) is not None
        budget -= 0 if known else file.size
        if known or budget >= 0:
            chosen.append(file)
    return chosen


def contents_differ(folder: Path, files: Sequence[contract.ArtifactFile], hashes: HashCache) -> str | None:
    """A file whose content is not what artifact.json says. Every one is compared, but for those that are known not to have changed."""
    found = hashes.files(folder, [file.path for file in sorted(files, key=lambda file: file.size)])
    return next((changed(file) for file in files if found[file.path] != file.sha256), None)


def changed(file: contract.ArtifactFile) -> str:
    """What is said of a file that is another than was published."""
    return f"the content of {file.path} has changed"


class Verification:
    """Compares what takes long to read with what its artifact.json says, in threads of its own, while the run gets ready and makes its first
    steps. Nothing that the run makes may be trusted before `finish`."""

    def __init__(self, hashes: HashCache) -> None:
        self.hashes = hashes
        self._threads = ThreadPoolExecutor(hashing.THREADS, "verifying")
        self._stopped = threading.Event()
        self._read = 0
        self._pending: list[tuple[str, str, contract.ArtifactFile, Future[str]]] = []
        self._told: list[str] = []

    def add(self, where: str, by: str, folder: Path, files: Sequence[contract.ArtifactFile], of_how_many: int) -> None:
        """``files`` are those of the artifact that ``by`` published in ``folder`` and that nobody has compared yet."""
        for file in files:
            self._pending.append(
                (where, by, file, self._threads.submit(self.hashes.file, folder / file.path, self._beat))
            )
        size = sum(file.size for file in files)
        beside = f", {len(files)} of them ({size / 2**30:.2f} GiB) beside the run" if files else ""
        self._told.append(f"{where}: all {of_how_many} files are what {by} published{beside}")

    def finish(self, heartbeat: Callable[[], None] = lambda: None) -> list[str]:
        """Wait for what is still being read; returns a line for each artifact, once. Raises InputError for the first file that has changed."""
        pending, self._pending = self._pending, []
        for where, by, file, digest in pending:
            while not wait([digest], POLL_SECONDS).done:
                if self._read:
                    self._read = 0
                    heartbeat()
            if digest.result() != file.sha256:
                raise damaged(where, by, changed(file))
        if pending:
            self.hashes.save()
        told, self._told = self._told, []
        return told

    def close(self) -> None:
        """Read no further: the run is over."""
        self._stopped.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _beat(self) -> None:
        """Called for every piece. It is no sign of life of the run, only of what waits for it."""
        self._read += 1
        if self._stopped.is_set():
            raise Interrupted("stopped while inputs were being verified")


POLL_SECONDS = 1.0
