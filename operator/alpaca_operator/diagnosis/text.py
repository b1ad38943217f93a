"""One line out of what programs print."""

from __future__ import annotations

import json
import re

from alpaca_operator.api.text import fitted

LINE_LIMIT = 1000
"""Characters of a message: `kubectl describe` still shows it well, and 32 attempts fit a status."""


def last_line(text: str) -> str:
    """The last line that says something: of a traceback the exception, of a JSON log its message."""
    for line in reversed(text.strip().splitlines()):
        try:
            entry = json.loads(line)
        except ValueError:
            return one_line(line)
        if isinstance(entry, dict) and entry.get("message"):
            return one_line(str(entry["message"]))
    return ""


COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def one_line(text: str) -> str:
    return fitted(" ".join(COLOURS.sub("", text).split()), LINE_LIMIT)
