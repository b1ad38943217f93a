"""Rows in files that are written alike every time: no clock is in them, and they take their names when they are whole."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Sequence
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


ROW_GROUP = 8 << 20
"""Bytes of the rows that Parquet packs together."""
CODECS = {"zstd": "zstd", "gzip": "gzip", "None": "none"}


class ParquetWriter:
    """Rows into a Parquet file with ``columns``, all of them text; what is no text is written as JSON. ``size`` counts bytes before packing."""

    def __init__(self, path: Path, compression: str, columns: Sequence[str]) -> None:
        import pyarrow
        from pyarrow import parquet

        self.path = path
        self._partial = atomic.partial_beside(path)
        self._schema = pyarrow.schema([(name, pyarrow.string()) for name in columns])
        self._out = parquet.ParquetWriter(self._partial, self._schema, compression=CODECS[compression])
        self._rows: list[dict[str, str | None]] = []
        self._flushed = 0
        self.size = 0

    def write(self, row: dict[str, Any]) -> None:
        cells = {name: _cell(row.get(name)) for name in self._schema.names}
        self._rows.append(cells)
        self.size += sum(len(cell.encode()) for cell in cells.values() if cell is not None)
        if self.size - self._flushed >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """The file is whole."""
        self._flush()
        self._out.close()
        self._partial.replace(self.path)

    def _flush(self) -> None:
        import pyarrow

        if self._rows:
            self._out.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._flushed = [], self.size


def _cell(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _packed(file: BinaryIO, compression: str) -> Any:
    if compression == "gzip":
        return gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor().stream_writer(file)
    return file
