"""Words for messages: some of many names, what lies in a folder, the first line of an error."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def shown(path: Path | str | bytes) -> str:
    r"""A path for people, whatever the locale: as UTF-8, and bytes that are not as ``\xce``, since no text can hold them."""
    return os.fsencode(path).decode(errors="backslashreplace")


def some(names: Sequence[str], limit: int = 8) -> str:
    """The first of them, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def nearby(folder: Path) -> str:
    """What lies in the nearest folder above ``folder`` that there is, to end a sentence with."""
    parent = next(parent for parent in folder.parents if parent.is_dir())
    return f" ({parent} has {_listing(parent)})"


def contents(folder: Path) -> str:
    """What lies in ``folder``, to end a sentence with."""
    return f": it has {_listing(folder)}"


def _listing(folder: Path) -> str:
    return some(sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())) or "nothing in it"


def first_line(error: BaseException) -> str:
    """Of what it says; its type, where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
