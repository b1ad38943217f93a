"""All fields of a spec by their paths, such as `dataset.train[].format`, and specs in which one of them is changed."""

from __future__ import annotations

import copy
import re
import typing
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from pydantic import BaseModel


def leaves(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The path of every field below ``model`` that has no fields of its own; `[]` is any element of a list."""
    for name, field in model.model_fields.items():
        here = f"{path}.{field.alias or name}".lstrip(".")
        inner = list(_models(field.annotation))
        if not inner:
            yield here
        for part, suffix in inner:
            yield from leaves(part, here + suffix)


def _models(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    """The models in an annotation such as ``list[Toleration]`` or ``Cache | None``; mappings hold none of ours."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ""
    elif typing.get_origin(annotation) is list:
        for part in typing.get_args(annotation):
            yield from ((model, "[]" + suffix) for model, suffix in _models(part))
    elif typing.get_origin(annotation) is not dict:
        for part in typing.get_args(annotation):
            yield from _models(part)


def changed(spec: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """``spec`` with ``value`` at ``path``; None takes the field away. Parts on the way are made where they are absent."""
    whole = copy.deepcopy(spec)
    at: Any = whole
    steps = [int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", path.replace("[]", ".0"))]
    for step, following in pairwise(steps):
        empty: Any = [] if isinstance(following, int) else {}
        if isinstance(step, int) and step == len(at):
            at.append(empty)
        elif not isinstance(step, int):
            at.setdefault(step, empty)
        at = at[step]
    if value is None:
        at.pop(steps[-1], None)
    else:
        at[steps[-1]] = value
    return whole
