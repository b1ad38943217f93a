"""What the environment says of where a workload runs: in a pod, or on somebody's machine."""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alpaca_operator.api import contract
from workloads.errors import SpecError
from workloads.system import cgroup

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


THREADS = "OMP_NUM_THREADS"
OUR_THREADS = "ALPACA_NUM_THREADS"
"""Remembers that the number of threads is ours, and may be set anew."""
START_METHODS = ("spawn", "forkserver", "fork")


def is_pod(environ: Mapping[str, str]) -> bool:
    """Whether the operator made this process: it says so in the environment of each of its containers."""
    return environ.get(contract.ENV_IN_POD) == "1"


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
    start_method: str
    """How several processes of a run are started; see multiprocessing. A GPU needs `spawn`, as it cannot be used in a fork."""
    cpu_for_gpu: bool
    """Whether a pod goes on on the CPU where the GPUs that it was to have are not there."""
    nodes: int | None = None
    """How many machines train one model, where that is said apart from the spec."""
    node: int = 0
    """Number of this machine among them."""
    coordinator: tuple[str, int] | None = None
    """Name or address of the first of them, and its port; None where nothing said that there are others."""
    jobset: str = ""
    """UID of the JobSet that this machine's pod is of; empty where it is of none."""
    attempt: int = 0
    """How often that had been started again."""
    pod: str = ""
    """UID of the pod, where that is not the run."""
    group: str | None = None
    """What this machine has in common with others that each do a part of the work for themselves; None where it does all."""

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Environment:
        """Raises SpecError for a variable that cannot be read."""
        in_pod = is_pod(environ)
        home = Path(environ.get("HOME") or "/tmp")
        named_cache = environ.get(contract.ENV_CACHE)
        cache = Path(
            named_cache or Path(environ.get("XDG_CACHE_HOME") or home / ".cache", "literary-alpaca")
        ).absolute()
        hub_is_placed = any(environ.get(name) for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"))
        return cls(
            in_pod=in_pod,
            run_id=_file_name(environ.get(contract.ENV_RUN_ID, "")) or secrets.token_hex(8),
            claims=Path(contract.MOUNT_ROOT if in_pod else environ.get(contract.ENV_STORAGE) or "storage").absolute(),
            cache=cache,
            cache_is_kept=not in_pod or bool(named_cache),
            hub_cache=cache / "huggingface" if named_cache and not hub_is_placed else None,
            termination_log=termination_log(environ),
            progress_address=_progress_address(environ.get(contract.ENV_PROGRESS_PORT), in_pod),
            start_method=_start_method(environ.get(contract.ENV_START_METHOD)),
            cpu_for_gpu=environ.get(contract.ENV_CPU_FOR_GPU) == "1",
            nodes=_nodes(environ.get(contract.ENV_NODES)),
            node=_node(environ.get(contract.ENV_NODE)),
            coordinator=_coordinator(environ.get(contract.ENV_COORDINATOR)),
            jobset=environ.get(contract.ENV_JOBSET, ""),
            attempt=_attempt(environ.get(contract.ENV_ATTEMPT)),
            pod=_file_name(environ.get(contract.ENV_POD, "")),
            group=_file_name(environ.get(contract.ENV_GROUP, "")) or None,
        )


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", text)


def _coordinator(text: str | None) -> tuple[str, int] | None:
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, contract.NODES_PORT
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise SpecError(
            f"{contract.ENV_COORDINATOR} is {text!r}: give a name or an address of node 0, with or without :port"
        )
    return host, int(port)


def _node(text: str | None) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise SpecError(f"{contract.ENV_NODE} is {text!r}: give the number of this node, from 0")
    return int(text)


def _nodes(text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise SpecError(f"{contract.ENV_NODES} is {text!r}: give the number of nodes that train together")
    return int(text)


def _attempt(text: str | None) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise SpecError(f"{contract.ENV_ATTEMPT} is {text!r}: give how often the nodes were started again, from 0")
    return int(text)


def termination_log(environ: Mapping[str, str]) -> Path | None:
    """Where the kubelet reads a container's last word; None outside a pod."""
    in_pod = is_pod(environ)
    path = environ.get(contract.ENV_TERMINATION) or (contract.TERMINATION_PATH if in_pod else None)
    return Path(path) if path else None


def _progress_address(text: str | None, in_pod: bool) -> tuple[str, int] | None:
    """In a pod always, for the operator; elsewhere only where a port was asked for, and for this machine alone."""
    if text is None or text == "":
        return ("", contract.PROGRESS_PORT) if in_pod else None
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise SpecError(f"{contract.ENV_PROGRESS_PORT} is {text!r}: give a port, or 0 for a free one")
    return ("" if in_pod else "127.0.0.1", int(text))


def _start_method(text: str | None) -> str:
    if text and text not in START_METHODS:
        raise SpecError(f"{contract.ENV_START_METHOD} is {text!r}: give one of {', '.join(START_METHODS)}")
    return text or START_METHODS[0]


def share_processors(processes: int = 1) -> None:
    """Give each of ``processes`` its part of the processors that the container may use, unless the user has set OMP_NUM_THREADS.

    Left alone, torch starts a thread for each processor of the node, and under a CPU limit they wait for each other, spinning: a step
    was seen to take 12 s instead of 0.3 s.
    """
    set_by_user = THREADS in os.environ and os.environ[THREADS] != os.environ.get(OUR_THREADS)
    if set_by_user or (processes == 1 and cgroup.quota() is None and THREADS not in os.environ):
        return
    threads = max(1, cgroup.cores() // processes)
    os.environ[THREADS] = os.environ[OUR_THREADS] = str(threads)
    if "torch" in sys.modules:  # it has read the variable
        sys.modules["torch"].set_num_threads(threads)
