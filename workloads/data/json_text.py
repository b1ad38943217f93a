"""JSON as the files of a data set hold it: a name that stands twice is refused, and the NaN that pandas writes is null."""

from __future__ import annotations

import json
from typing import Any


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} stands twice in one object, and only one of its values could be read")
    return found


def _constant(text: str) -> None:
    if text != "NaN":
        raise ValueError(f"{text} is no JSON")


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def loads(text: str) -> Any:
    """What ``text`` holds. Raises JSONDecodeError for what is no JSON, and ValueError for what JSON leaves undecided."""
    return DECODER.decode(text)
