"""Every setting of the operator, from the environment. ``python -m alpaca_operator --help`` prints this list."""

from __future__ import annotations

import ast
import inspect
import os
import socket
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self, get_args, get_origin, get_type_hints

from alpaca_operator.api import KINDS

PREFIX = "ALPACA_"
IMAGE_PREFIX = f"{PREFIX}IMAGE_"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Via = Literal["Auto", "Pod", "APIServer"]
LogFormat = Literal["Auto", "JSON", "Text"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class SettingError(ValueError):
    """An environment variable holds what it must not; the message names the variable, the value and what is allowed."""


def own_namespace() -> str:
    """The namespace that the operator's pod runs in; outside a cluster ``default``."""
    return NAMESPACE_FILE.read_text().strip() if NAMESPACE_FILE.exists() else "default"


def unique_identity() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


@dataclass(frozen=True, slots=True)
class Settings:
    """Field ``resync_seconds`` is read from ``ALPACA_RESYNC_SECONDS``, and so on; ``images`` from ``ALPACA_IMAGE_<KIND>``."""

    namespaces: tuple[str, ...] = ()
    """Namespaces served, separated by commas. Empty serves the whole cluster."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Container image of each kind's pods (`ALPACA_IMAGE_SFTJOB`), where the resource names none."""
    image_page: str = ""
    """Container image of the chat page (`ALPACA_IMAGE_PAGE`), where a ChatDeployment names none."""
    image_vllm: str = ""
    """Container image of vLLM (`ALPACA_IMAGE_VLLM`). Empty, `engine: Auto` takes Transformers on GPUs too."""
    operator_namespace: str = field(default_factory=own_namespace)
    """Where the Lease lies."""
    lease_name: str = "literary-alpaca"
    """Name of the Lease. Installations that serve different namespaces from one namespace need a name each."""
    identity: str = field(default_factory=unique_identity)
    """Who holds the Lease: the pod's name, by the downward API. A Lease left by the same identity is taken over at once: it is
    this pod's last container, which is dead. Two processes must never share an identity."""
    lease_seconds: float = 15.0
    """A holder that is silent for so long has lost the Lease."""
    renew_seconds: float = 4.0
    """Time between two renewals, and between two looks of a replica that waits for the Lease."""
    workers: int = 16
    """Resources reconciled at the same time."""
    resync_seconds: float = 180.0
    """Time between two comparisons of what is known with what exists."""
    progress_seconds: float = 5.0
    """Time between two questions to a running pod for its progress; longer when more than a hundred run."""
    progress_timeout_seconds: float = 2.0
    """A pod that has not answered by then counts as unreachable this time."""
    progress_via: Via = "Auto"
    """`Pod` asks the pod's own address, `APIServer` goes through the API server. `Auto`: `Pod` within a cluster, else `APIServer`."""
    progress_write_seconds: float = 15.0
    """Least time between two writes of one resource's progress. Changes of state are written at once."""
    progress_writes_per_second: float = 10.0
    """Most progress writes of all resources together."""
    port: int = 8080
    """Port of /healthz, /readyz and /metrics."""
    log_format: LogFormat = "Auto"
    """`Auto`: text on a terminal, JSON lines elsewhere."""
    log_level: LogLevel = "INFO"
    """INFO is a line per change of state."""

    def __post_init__(self) -> None:
        if not 0 < self.renew_seconds <= self.lease_seconds / 3:
            raise SettingError(
                f"ALPACA_RENEW_SECONDS is {self.renew_seconds:g}: set it above 0 and to at most a third of "
                f"ALPACA_LEASE_SECONDS ({self.lease_seconds:g}), so that two failed renewals do not lose the Lease"
            )
        if self.workers < 1:
            raise SettingError(f"ALPACA_WORKERS is {self.workers}: set it to at least 1")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Raises SettingError. Variables that are set but empty count as absent."""
        hints = get_type_hints(cls)
        given = {
            name: _parse(hints[name], PREFIX + name.upper(), text)
            for name in (each.name for each in fields(cls) if each.name != "images")
            if (text := environment.get(PREFIX + name.upper(), ""))
        }
        images = {kind: image for kind in KINDS if (image := environment.get(IMAGE_PREFIX + kind.upper()))}
        return cls(images=images, **given)  # type: ignore[arg-type]


def _parse(kind: object, variable: str, text: str) -> object:
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise SettingError(f"{variable} is {text!r}: set it to one of {', '.join(get_args(kind))}")
        return text
    if kind == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind is int or kind is float:
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise SettingError(f"{variable} is {text!r}: set it to {what}") from None
    return text


def describe() -> str:
    """A paragraph for each variable: name, default, meaning."""
    meanings = _docstrings()
    lines = []
    for each in fields(Settings):
        variable = f"{IMAGE_PREFIX}<KIND>" if each.name == "images" else PREFIX + each.name.upper()
        default = each.default if each.default is not MISSING else ""
        shown = ",".join(default) if isinstance(default, tuple) else default
        lines.append(f"  {variable}={shown}\n      {meanings[each.name]}")
    return "\n".join(lines)


def _docstrings() -> dict[str, str]:
    """The sentence under each field, which Python itself does not keep."""
    body = ast.parse(inspect.getsource(Settings)).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(sentence.value.value.split())
        for field, sentence in pairwise(body.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(sentence, ast.Expr)
        and isinstance(sentence.value, ast.Constant)
        and isinstance(sentence.value.value, str)
    }
