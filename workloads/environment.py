"""What the environment says of where a workload runs: in a pod, or on somebody's machine."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alpaca_operator.api import contract
from workloads.errors import SpecError

TELEMETRY_OFF = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "DS_DISABLE_TELEMETRY": "1",
}
"""Set where the user has not said otherwise: nothing about a run leaves the machine unasked."""

QUIET = {
    "WANDB_SILENT": "true",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
"""Progress is told by us. Tokenizers must not fork with threads running: data loaders do fork."""


@dataclass(frozen=True)
class Environment:
    """Where things are, on this machine."""

    in_pod: bool
    run_id: str
    """Letters, digits and hyphens: it becomes a part of file names."""
    claims: Path
    """`pvc://claim/path` is `<claims>/claim/path`."""
    cache: Path
    """Downloads, tokenised data, digests. Kept between runs where it is a volume."""
    cache_is_kept: bool
    hub_cache: Path | None
    """Where hub downloads go; None leaves it to huggingface_hub, which may share it with other programs."""
    termination_log: Path | None
    progress_address: tuple[str, int] | None
    """Host (empty is every address) and port of `/progress` and `/metrics`; None serves neither."""

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Environment:
        """Raises SpecError for a variable that cannot be read."""
        in_pod = environ.get(contract.ENV_IN_POD) == "1"
        home = Path(environ.get("HOME") or "/tmp")
        named_cache = environ.get(contract.ENV_CACHE)
        cache = Path(
            named_cache or Path(environ.get("XDG_CACHE_HOME") or home / ".cache", "literary-alpaca")
        ).absolute()
        hub_is_placed = any(environ.get(name) for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"))
        return cls(
            in_pod=in_pod,
            run_id=re.sub(r"[^A-Za-z0-9-]", "-", environ.get(contract.ENV_RUN_ID, "")) or secrets.token_hex(8),
            claims=Path(contract.MOUNT_ROOT if in_pod else environ.get(contract.ENV_STORAGE) or "storage").absolute(),
            cache=cache,
            cache_is_kept=not in_pod or bool(named_cache),
            hub_cache=cache / "huggingface" if named_cache and not hub_is_placed else None,
            termination_log=termination_log(environ),
            progress_address=_progress_address(environ.get(contract.ENV_PROGRESS_PORT), in_pod),
        )


def termination_log(environ: Mapping[str, str]) -> Path | None:
    """Where the kubelet reads a container's last word; None outside a pod."""
    in_pod = environ.get(contract.ENV_IN_POD) == "1"
    path = environ.get(contract.ENV_TERMINATION) or (contract.TERMINATION_PATH if in_pod else None)
    return Path(path) if path else None


def _progress_address(text: str | None, in_pod: bool) -> tuple[str, int] | None:
    """In a pod always, for the operator; elsewhere only where a port was asked for, and for this machine alone."""
    if text is None or text == "":
        return ("", contract.PROGRESS_PORT) if in_pod else None
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise SpecError(f"{contract.ENV_PROGRESS_PORT} is {text!r}: give a port, or 0 for a free one")
    return ("" if in_pod else "127.0.0.1", int(text))
