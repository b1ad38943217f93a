"""The bytes of a data file, unpacked, and what a file is: by its name, else by what it begins with."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import re
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, cast

from workloads.data.encodings import encoding_of
from workloads.errors import DataError
from workloads.system.describe import shown
from workloads.system.os_errors import unreadable

PACKED = {".gz": "gzip", ".bz2": "bzip2", ".zst": "zstd", ".zstd": "zstd"}
"""Endings that are looked behind: rows.jsonl.gz is JSON lines."""
PACKERS = (
    (b"\x1f\x8b", "gzip"),
    *((b"BZh%d1AY&SY" % level, "bzip2") for level in range(1, 10)),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    *(
        (bytes([first]) + b"\x2a\x4d\x18", "zstd") for first in range(0x50, 0x60)
    ),  # a frame to be skipped, as pzstd begins
)
MAGIC = max(len(magic) for magic, _ in PACKERS)
HEAD = 4096
"""Bytes by which a file is known for what it is."""

UNPACK = "unpack it, and name the files"
REPACK = "unpack it, or pack it as .gz or .zst, which are read as they are"
CONVERT = "convert it to text, JSON lines, CSV or Parquet"
SIGNATURES = (
    (0, b"PK\x03\x04", "a ZIP archive (as .docx, .xlsx and .epub are)", UNPACK),
    (0, b"PK\x05\x06", "an empty ZIP archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (257, b"ustar\x00", "a tar archive", UNPACK),
    (257, b"ustar  ", "a tar archive", UNPACK),
    (4, b"1AY&SY", "a bzip2 file", REPACK),
    (0, b"\xfd7zXZ\x00", "an xz file", REPACK),
    (0, b"\x04\x22\x4d\x18", "an lz4 file", REPACK),
    (0, b"\x1f\x9d", "a file of compress (.Z)", REPACK),
    (0, b"\x1f\x8b", "a gzip file", "unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it"),
    (0, b"%PDF-", "a PDF", CONVERT),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document (.doc, .xls)", CONVERT),
    (0, b"{\\rtf", "an RTF document", CONVERT),
    (60, b"BOOKMOBI", "a Mobipocket book", CONVERT),
    (0, b"SQLite format 3\x00", "an SQLite database", CONVERT),
    (0, b"\x89HDF\r\n", "an HDF5 file", CONVERT),
    (0, b"\x93NUMPY", "a NumPy array", CONVERT),
    (0, b"Obj\x01", "an Avro file", CONVERT),
    (0, b"\x89PNG\r\n", "a picture", CONVERT),
    (0, b"\xff\xd8\xff", "a picture", CONVERT),
    (0, b"\x7fELF", "a program", CONVERT),
    (0, b"PAR1", "Parquet", "name it .parquet"),
    (0, b"ARROW1", "Arrow", "name it .arrow"),
    (0, b"FEA1", "Feather of the first version", "write it again with version=2"),
)
"""Where in a file, what stands there, what the file is then, and what to do for it to be read."""
COLUMNAR = {"Parquet": ".parquet", "Arrow": ".arrow"}
"""Those of them that have readers of their own. A Feather file is an Arrow file."""


def ending(path: Path) -> str:
    """The ending that says what a file holds, in lower case: that before .gz, .bz2 or .zst."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def open_bytes(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked where it begins as gzip, bzip2 or zstd, whatever its name.

    Opening and reading raise InputError for what the system cannot read, DataError for a stream that is damaged.
    """
    return cast("IO[bytes]", io.BufferedReader(Unpacked(path), HEAD * 16))


class Unpacked(io.RawIOBase):
    """A file that is read through what packed it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("rb")
            head = self._file.read(MAGIC)
            self._file.seek(0)
        except OSError as error:
            raise unreadable(error, path) from error
        self._packer = _packer_of(head)
        self._stream: Any = self._file
        if self._packer == "gzip":
            self._stream = gzip.GzipFile(fileobj=self._file)
        elif self._packer == "bzip2":
            self._stream = _Bzip2(self._file)
        elif self._packer == "zstd":
            import pyarrow  # unlike zstandard, it tells a stream that breaks off

            self._stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(self._file, mode="r"), "zstd")

    @property
    def consumed(self) -> int:
        """Bytes of the file itself that were read."""
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise unreadable(error, self._path) from error
            what = f"{shown(self._path)}: the {self._packer} stream is damaged ({' '.join(str(error).split())})"
            raise DataError(f"{what}: copy the file again") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._file.close()
        super().close()


class _Bzip2:
    """What the streams of a bzip2 file hold, one after another. `bz2.BZ2File` takes a stream behind the first that it cannot unpack for something
    else, ends there, and says nothing: of a dump of many streams a part would be taken for the whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpacker = bz2.BZ2Decompressor()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, none at the end. Raises OSError for what is damaged, EOFError for what is cut."""
        while True:
            packed = b""
            if self._unpacker.eof:
                # Zeros fill up the last block of a tape, as behind gzip, which passes over them too.
                packed = self._unpacker.unused_data.lstrip(b"\0")
                while not packed:
                    if not (packed := self._file.read(HEAD * 16)):
                        return b""
                    packed = packed.lstrip(b"\0")
                self._unpacker = bz2.BZ2Decompressor()
            elif self._unpacker.needs_input and not (packed := self._file.read(HEAD * 16)):
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            if data := self._unpacker.decompress(packed, size):
                return data

    def close(self) -> None:
        """The file is whoever's opened it."""


class LinesWithin(io.RawIOBase):
    """Of a file that is not packed the lines that begin at or after byte ``start`` and before byte ``end``, each whole."""

    def __init__(self, path: Path, start: int, end: int) -> None:
        self._path = path
        try:
            self._file = path.open("rb")
            self._file.seek(max(0, start - 1))
            if start:
                self._file.readline()  # the end of a line that begins before
        except OSError as error:
            raise unreadable(error, path) from error
        self._start, self._end = self._file.tell(), end
        self._rest: bytes = b""

    @property
    def consumed(self) -> int:
        """Bytes that were read."""
        return self._file.tell() - self._start

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            if not self._rest:
                self._rest = self._next(len(buffer))
        except OSError as error:
            raise unreadable(error, self._path) from error
        data, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)

    def _next(self, size: int) -> bytes:
        left = self._end - self._file.tell()
        if left <= 0:
            return b""
        data = self._file.read(min(size, left))
        # What begins before the end goes on behind it, to the end of its line.
        return data if data.endswith(b"\n") or self._file.tell() < self._end else data + self._file.readline()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def is_packed(path: Path) -> bool:
    """Whether a file begins as gzip, bzip2 or zstd, whatever its name."""
    with path.open("rb") as file:
        return _packer_of(file.read(MAGIC)) is not None


def _packer_of(head: bytes) -> str | None:
    return next((name for magic, name in PACKERS if head.startswith(magic)), None)


def foreign(path: Path, packed: bool = True) -> tuple[str, str] | None:
    """What a file is, if it is nothing that is read as text, and the remedy. With ``packed``, what it is once unpacked."""
    with open_bytes(path) if packed else path.open("rb") as stream:
        head = stream.read(HEAD)
    return next(((what, remedy) for at, magic, what, remedy in SIGNATURES if head[at : at + len(magic)] == magic), None)


def must_be_text(path: Path) -> None:
    """Raises DataError for a file that is something else than text, whatever it is called."""
    if (found := foreign(path)) is not None:
        raise DataError(f"{shown(path)}: it is {found[0]}, no text: {found[1]}")


def kind_of(path: Path, known: Collection[str]) -> str | None:
    """The ending of ``known`` that a file has or, by its content, should have; None for text of no kind.

    Raises DataError for what is neither text nor of a kind with a reader.
    """
    if (named := ending(path)) in known:
        return named
    found = foreign(path)
    if found is not None and COLUMNAR.get(found[0]) in known:
        return COLUMNAR[found[0]]
    must_be_text(path)
    return _json_kind(path)


def _json_kind(path: Path) -> str | None:
    """``.jsonl`` where the first line is an object, ``.json`` where an array or an object begins as those do that go over several lines."""
    with open_bytes(path) as stream:
        head = stream.read(1 << 20)
    text = head.decode(encoding_of(path, open_bytes), "replace").lstrip("\ufeff \t\r\n")
    line = text.partition("\n")[0]
    try:
        if isinstance(json.loads(line), dict):
            return ".jsonl"
    except (ValueError, RecursionError):
        pass
    return ".json" if re.match(r'\{\s*"|\[\s*[\[{]', text) else None
