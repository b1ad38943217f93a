"""``hf://[datasets/]org/name[@revision][/path]``: a model or data set of the Hugging Face hub, in its usual local cache.

Offline flags (HF_HUB_OFFLINE), mirrors (HF_ENDPOINT) and the token (HF_TOKEN) are read from the environment by huggingface_hub.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from workloads.errors import InputError, SpecError, WorkloadError
from workloads.system.describe import first_line
from workloads.system.os_errors import FULL, sentence

Loaded = tuple[tuple[str, ...], tuple[str, ...]] | None
"""Endings of the files that a source is loaded from, and those that count too where it has no safetensors; None is every file."""


ORIGINALS = ["consolidated*", "*/consolidated*"]
"""The same weights once more, under the names of their makers (Meta, Mistral): nobody here loads them, and two sets of weights in one
folder are refused."""


class HubUnreachable(WorkloadError):
    """The hub did not answer, or not sensibly. It may the next time, so the run is tried again."""


@dataclass(frozen=True)
class Repository:
    """An ``hf://`` or ``ms://`` address in its parts."""

    kind: str
    """`model` or `dataset`."""
    name: str
    revision: str | None
    path: str
    """A folder or file within; empty for the whole repository."""


def parse(uri: str, content: str, where: str) -> Repository:
    """Of ``ms://`` too. Raises SpecError for an address without an organisation and a name."""
    scheme, _, rest = uri.partition("://")
    parts = rest.strip("/").split("/")
    kind = "dataset" if content == "Dataset" else "model"
    if parts[0] in ("datasets", "models") and len(parts) > 2:
        kind = parts.pop(0).removesuffix("s")
    if len(parts) < 2 or not all(parts[:2]):
        raise SpecError(
            f"{where}: write {scheme}://org/name, {scheme}://org/name@revision or {scheme}://org/name@revision/path"
        )
    name, _, revision = parts[1].partition("@")
    return Repository(kind, f"{parts[0]}/{name}", unquote(revision) or None, "/".join(parts[2:]))


def fetch(
    uri: str,
    content: str,
    loaded: Loaded,
    where: str,
    cache: Path | None,
    heartbeat: Callable[[], None],
) -> Path:
    """The local path of what ``uri`` names, downloaded as far as it is not in the cache.

    ``loaded`` limits a repository to the files that it is loaded from. Raises InputError when it does not exist or may not be read, HubUnreachable when asking again may help.
    """
    repository = parse(uri, content, where)
    if loaded is not None:
        endings, fallback = loaded
        patterns = _patterns(repository.path, endings)
        folder = _snapshot(repository, patterns, where, cache, heartbeat)
        if not any(folder.glob("**/*.safetensors")):
            folder = _snapshot(repository, [*patterns, *_patterns(repository.path, fallback)], where, cache, heartbeat)
    else:
        parts = [f"{repository.path}/*", repository.path] if repository.path else None
        folder = _snapshot(repository, parts, where, cache, heartbeat)
    return folder / repository.path if repository.path else folder


def _patterns(path: str, endings: tuple[str, ...]) -> list[str]:
    return [f"{path}/*{ending}" if path else f"*{ending}" for ending in endings]


def _snapshot(
    repository: Repository, patterns: list[str] | None, where: str, cache: Path | None, heartbeat: Callable[[], None]
) -> Path:
    import httpx2
    from huggingface_hub import constants, errors, snapshot_download

    at = f" at revision {repository.revision}" if repository.revision else ""
    try:
        return Path(
            snapshot_download(
                repository.name,
                repo_type=repository.kind,
                revision=repository.revision,
                cache_dir=cache,
                allow_patterns=patterns,
                ignore_patterns=ORIGINALS if patterns is not None else None,
                tqdm_class=_beating(heartbeat),
            )
        )
    except errors.HFValidationError as error:
        raise SpecError(f"{where}: {first_line(error)}") from error
    except errors.GatedRepoError as error:
        raise InputError(
            f"{where}: {repository.name} is gated: accept its terms at {constants.ENDPOINT}/{repository.name}, and give a token of that account in {_token_state()}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{where}: {repository.name} has no revision {repository.revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{where}: {constants.ENDPOINT} has no {repository.kind} {repository.name}, or it is private: check the name, and the token in {_token_state()}"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.IncompleteSnapshotError, errors.OfflineModeIsEnabled) as error:
        looked = cache or constants.HF_HUB_CACHE
        if constants.HF_HUB_OFFLINE:
            raise InputError(
                f"{where}: {repository.name}{at} is not whole in the cache {looked}, and HF_HUB_OFFLINE forbids to download it: "
                "unset it, or fill the cache"
            ) from error
        raise HubUnreachable(
            f"{where}: {constants.ENDPOINT} cannot be reached, and {looked} does not hold {repository.name}{at} whole: "
            f"{first_line(error.__cause__ or error)}"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise InputError(
                f"{where}: {constants.ENDPOINT} refuses {repository.name} ({status}): check the token in {_token_state()}"
            ) from error
        raise HubUnreachable(f"{where}: {constants.ENDPOINT} answers {status}: {first_line(error)}") from error
    except (httpx2.HTTPError, errors.XetDownloadError) as error:
        raise HubUnreachable(f"{where}: {constants.ENDPOINT} broke off: {first_line(error)}") from error
    except OSError as error:
        if error.errno is not None and error.errno not in FULL:  # of this machine
            looked = cache or constants.HF_HUB_CACHE
            raise SpecError(
                f"{where}: {sentence(error, looked, 'write')}; or set HF_HOME to a folder for downloads"
            ) from error
        if error.errno is not None:
            raise
        raise HubUnreachable(f"{where}: {first_line(error)}") from error  # a download that is not what was announced


def _token_state() -> str:
    if os.environ.get("HF_TOKEN"):
        return "HF_TOKEN, which is set"
    return "HF_TOKEN, which is not set (in a pod: secretRef)"


def _beating(heartbeat: Callable[[], None]) -> type[Any]:
    """A progress bar that shows nothing and tells the watchdog that bytes arrive."""
    from tqdm import tqdm

    class Beating(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            heartbeat()

    return Beating
