"""JSON lines in a file that is packed alike every time: no clock is in it, and it takes its name when it is whole."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from workloads.system import atomic

ENDINGS = {"zstd": ".zst", "gzip": ".gz", "None": ""}
BUFFER = 1 << 20


class LinesWriter:
    """Rows into ``path``, with the ending of its compression. ``size`` counts bytes before packing."""

    def __init__(self, path: Path, compression: str) -> None:
        self.path = path.with_name(path.name + ENDINGS[compression])
        self._partial = atomic.partial_beside(self.path)
        self._file = self._partial.open("wb")
        self._out = io.BufferedWriter(cast("io.RawIOBase", _packed(self._file, compression)), BUFFER)
        self.size = 0

    def write(self, row: dict[str, Any]) -> None:
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        self.size += len(line)
        self._out.write(line)

    def __enter__(self) -> LinesWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._file.close()
            self._partial.unlink()
            return
        self.close()

    def close(self) -> None:
        """The file is whole."""
        self._out.close()
        self._file.close()
        self._partial.replace(self.path)


def _packed(file: BinaryIO, compression: str) -> Any:
    if compression == "gzip":
        return gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor().stream_writer(file)
    return file
