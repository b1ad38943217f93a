"""What a folder consists of for a job that reads it: which files count, their digest, and whether they are as published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from alpaca_operator.api import contract
from alpaca_operator.api.sources import Source
from workloads.errors import InputError
from workloads.storage import hashing
from workloads.storage.hashing import HashCache

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
    has_safetensors = any(name.endswith(".safetensors") for name in names)
    return [name for name in names if name.endswith(MODEL_FILES if has_safetensors else MODEL_FILES + PICKLED)]


def content_digest(path: Path, source: Source, where: str, hashes: HashCache) -> str:
    """The digest of an artifact where one lies there; else of the contents. Raises InputError for a damaged artifact."""
    if path.is_file():
        return f"sha256:{hashes.file(path)}"
    artifact = read_artifact(path)
    if artifact is None:
        _must_not_be_half_copied(path, where)
        return hashing.of_files(hashes.files(path, relevant(hashing.listing(path), source.content)))
    wanted = set(relevant([file.path for file in artifact.files], source.content))
    files = [file for file in artifact.files if file.path in wanted]
    if damage := sizes_differ(path, files) or contents_differ(path, files, hashes):
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


CHEAP_BYTES = 1024 * 1024 * 1024
"""About a second and a half of reading: as much as is verified on each start of a job whose output is there already."""


def contents_differ(folder: Path, files: Sequence[contract.ArtifactFile], hashes: HashCache) -> str | None:
    """A file whose content is not what artifact.json says. Small files first, and only as many as are cheap to read."""
    budget = CHEAP_BYTES
    for file in sorted(files, key=lambda file: file.size):
        path = folder / file.path
        digest = hashes.cached(path)
        if digest is None:
            budget -= file.size
            if budget < 0:
                return None
            digest = hashes.file(path)
        if digest != file.sha256:
            return f"the content of {file.path} has changed"
    return None
