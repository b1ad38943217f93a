"""A DeepSpeed configuration of the user's own, put to the library before anything is loaded: it names the key that it does not accept."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, KeysView, Mapping
from typing import Any

from alpaca_operator.api.training import DeepSpeed
from workloads.errors import SpecError
from workloads.models import libraries
from workloads.system.describe import first_line
from workloads.system.hardware import is_installed

SHARES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
"""What a step consists of: transformers compares them with the training settings, and knows the number of processes."""
BATCH_OF_ONE = {"train_batch_size": 1}


def check(wanted: DeepSpeed | None, on_gpu: bool) -> None:
    """Raises SpecError that names the key of ``deepspeed.config`` which the library does not accept, or does not read."""
    if wanted is None:
        return
    libraries.show("deepspeed")
    if not is_installed("deepspeed"):
        raise SpecError(
            "deepspeed needs the package deepspeed, which is not installed: install it, or remove deepspeed"
        )
    if wanted.config is None:
        return
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from deepspeed.runtime import constants
    from deepspeed.runtime.config import DeepSpeedConfig
    from pydantic import ValidationError

    for key in SHARES:
        value = wanted.config.get(key, "auto")
        if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise SpecError(f"deepspeed.config.{key} is {value!r}: give a number of at least 1, or auto")
    asked = Asked({key: value for key, value in wanted.config.items() if key not in SHARES} | BATCH_OF_ONE)
    version = f"DeepSpeed {deepspeed.__version__}"
    try:
        DeepSpeedConfig(asked)
    except ValidationError as error:
        raise SpecError(_of_the_library(error, wanted.config, version)) from error
    except Exception as error:  # a dozen kinds, none of its own; nothing but the configuration goes into it
        raise SpecError(
            f"deepspeed.config is not accepted by {version} ({type(error).__name__}: {first_line(error)}): correct it, or use "
            "deepspeed.preset"
        ) from error
    known = asked.keys_asked | {value for value in vars(constants).values() if isinstance(value, str)} | {*SHARES}
    for key in wanted.config:
        if key not in known:
            raise SpecError(f"deepspeed.config.{key} is nothing that {version} reads: {_remedy(key, known)}")


class Asked(dict[str, Any]):
    """A configuration that remembers which keys it was asked for: those are the ones that the library reads."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.keys_asked: set[str] = set()

    def __contains__(self, key: object) -> bool:
        self.keys_asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.keys_asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_asked.add(key)
        return super().get(key, default)

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        return _AskedKeys(self)

    def __copy__(self) -> Asked:
        return self


class _AskedKeys(KeysView[str]):
    """KeysView asks the mapping itself whether it holds a key."""


def _of_the_library(error: Any, config: Mapping[str, Any], version: str) -> str:
    """The first thing that a model of the library refuses, with the whole path of its key."""
    first = error.errors()[0]
    tail = tuple(str(part) for part in first["loc"])
    path = next((path for path in _paths(config) if path[-len(tail) :] == tail), tail)
    field = "deepspeed.config." + ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"{field} is a key that {version} does not know: remove it"
    return f"{field} is {first['input']!r}, which {version} does not accept ({first['msg']}): correct it"


def _paths(config: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in config.items():
        yield (*above, key)
        if isinstance(value, Mapping):
            yield from _paths(value, (*above, key))


def _remedy(key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]}?" if close else "remove it"
