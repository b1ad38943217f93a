"""Halves of a character beyond 16 bits: what a program, or a model, makes that cuts a text in the middle of an emoji."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HALVES = re.compile("[\ud800-\udfff]")


def whole(value: Any) -> Any:
    """A value of JSON with half characters made the replacement character: no tokenizer takes them, and no answer that quotes them can be
    sent."""
    if isinstance(value, str):
        return HALVES.sub("\ufffd", value)
    if isinstance(value, list):
        return [whole(each) for each in value]
    if isinstance(value, Mapping):
        return {whole(key): whole(each) for key, each in value.items()}
    return value
