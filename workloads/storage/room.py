"""Whether a volume has room for what a run is going to write: asked before the first step, told as numbers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workloads.errors import SpecError


@dataclass(frozen=True)
class Need:
    """What is going to lie in a folder, all of it at the same time."""

    folder: Path
    """It may not be there yet."""
    size: int
    """Bytes, without those that lie there already."""
    what: str
    """In words, as `the output of 13.5 GiB`."""


def must_suffice(needs: Sequence[Need], field: str, remedy: str) -> list[str]:
    """What is going to lie where, in a sentence for each volume. Raises SpecError, which begins with ``field``, where a volume has less
    free than that."""
    volumes: dict[int, list[Need]] = {}
    for need in needs:
        volumes.setdefault(_existing(need.folder).stat().st_dev, []).append(need)
    sentences = []
    for together in volumes.values():
        size = sum(need.size for need in together)
        where = _existing(together[0].folder)
        free = shutil.disk_usage(where).free
        sentence = f"{' and '.join(need.what for need in together)} need {in_words(size)} on the volume of {where}, where {in_words(free)} are free"
        if size > free:
            raise SpecError(f"{field}: {sentence}: enlarge it, or {remedy}")
        sentences.append(sentence)
    return sentences


def in_words(size: int) -> str:
    """Bytes, in the unit that leaves the fewest digits."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that there is."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
