"""Words for messages: what lies in a folder, the first line of an error."""

from __future__ import annotations

from pathlib import Path


def nearby(folder: Path) -> str:
    parent = next(parent for parent in folder.parents if parent.is_dir())
    return f" ({parent} has {_listing(parent)})"


def contents(folder: Path) -> str:
    return f": it has {_listing(folder)}"


def _listing(folder: Path, limit: int = 8) -> str:
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    if not names:
        return "nothing in it"
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
