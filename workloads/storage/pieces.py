"""Contents read piece by piece: none is in memory whole, and whoever watches sees that it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

CHUNK = 8 * 1024 * 1024


def of(content: Path | bytes, heartbeat: Callable[[], None]) -> Iterator[bytes]:
    """A file from its beginning, ``heartbeat`` called for each piece; or bytes as they are."""
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb", buffering=0) as file:
        while piece := file.read(CHUNK):
            heartbeat()
            yield piece
