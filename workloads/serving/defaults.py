"""How answers are written where a request does not say: the spec's word, else the model's own, else ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_operator.api.chat import Answering
from alpaca_operator.api.generation import Decoding
from workloads.errors import InputError

GENERATION = tuple(Answering.model_fields)
"""What both the spec and a generation_config.json may say."""


def resolved(asked: Answering, folders: Sequence[Path]) -> dict[str, Any]:
    """Every value. ``folders`` are those that may say how the model is meant to be sampled, the newest first. Raises InputError."""
    own = next((found for folder in folders if (found := _generation_config(folder))), {})
    ours = Decoding()
    return {name: _first(name, asked, own, ours) for name in GENERATION}


def told(values: Mapping[str, Any]) -> dict[str, Any]:
    """As `/v1/models` tells them."""
    return {_camel(name): values[name] for name in GENERATION if name in values}


def _first(name: str, asked: Answering, own: Mapping[str, Any], ours: Decoding) -> Any:
    candidates = (getattr(asked, name), own.get(name), getattr(ours, name))
    return next(value for value in candidates if value is not None)


def _camel(name: str) -> str:
    return str(Answering.model_fields[name].alias)


def _generation_config(folder: Path) -> dict[str, Any]:
    """How the model is meant to be sampled, with values that our own bounds take."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"spec.model: {path} is no JSON ({error}): copy the model again") from error
    found = {name: content[name] for name in GENERATION if isinstance(content.get(name), int | float)}
    if content.get("do_sample") is False:
        found["temperature"] = 0.0
    try:
        Answering.model_validate(found)
    except ValueError as error:
        raise InputError(f"spec.model: {path}: {error}: correct it, or set generation") from error
    return found
