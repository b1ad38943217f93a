"""One line out of what programs print."""

from __future__ import annotations

import json
import re

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
    line = " ".join(COLOURS.sub("", text).split())
    return line if len(line) <= LINE_LIMIT else line[: LINE_LIMIT - 1] + "…"
