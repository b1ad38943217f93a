"""Pointers: small files that stand in a checkout for large ones which were not fetched. They are no content, whatever input they lie in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from workloads.errors import InputError
from workloads.system.describe import shown, some

LIMIT = 1024
"""Bytes: Git LFS says that a pointer is smaller."""
KINDS = (
    (b"version https://git-lfs.github.com/spec/", "Git LFS", "git lfs pull"),
    (b"version https://hawser.github.com/spec/", "Git LFS", "git lfs pull"),
    (b"version http://git-media.io/v/", "Git LFS", "git lfs pull"),
    (b"# xet version ", "Xet", "git xet checkout"),
    (b"/annex/objects/", "git-annex", "git annex get ."),
)
"""How a pointer begins, whose it is, and what fetches the content."""


def refuse_pointers(folder: Path, names: Iterable[str], where: str) -> None:
    """Raises InputError when files of ``folder`` are pointers; all of them are counted, as one command fetches all."""
    found = [(name, tool, command) for name in names for tool, command in _pointed(folder / name)]
    if not found:
        return
    name, tool, command = found[0]
    others = [shown(other) for other, *_ in found[1:]]
    more = f" (and so {'is' if len(others) == 1 else 'are'} {some(others, 3)})" if others else ""
    raise InputError(
        f"{where}: {shown(folder / name)} is a {tool} pointer, not the content{more}: run `{command}` in {shown(folder)}, "
        "or copy the files from where they are whole"
    )


def _pointed(path: Path) -> list[tuple[str, str]]:
    """Whose pointer the file is, and the command; of a whole file nothing."""
    if path.stat().st_size >= LIMIT:
        return []
    head = path.read_bytes()
    return [(tool, command) for start, tool, command in KINDS if head.startswith(start)]
