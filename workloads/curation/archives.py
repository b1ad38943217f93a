"""Archives as they come: each file in them is unpacked, read, and removed again, so that none takes more room than its largest file."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Self, cast

from workloads.data.opening import ending, open_bytes
from workloads.errors import DataError
from workloads.system.describe import first_line, shown

ENDINGS = {".zip": "ZIP", ".tar": "Tar", ".tgz": "Tar", ".tbz2": "Tar"}
"""Endings of archives; ``.tar`` also before .gz, .bz2 or .zst."""
KINDS = frozenset(ENDINGS.values())
DAMAGES = (
    zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, UnicodeDecodeError
)  # fmt: skip
"""What the libraries raise for an archive that is cut, damaged, encrypted, or packed in a way of its own; besides an OSError without a number, as bz2 does."""


def kind_of(path: Path) -> str | None:
    """Of an archive how it is read; None for anything else."""
    return ENDINGS.get(ending(path))


def members(path: Path, kind: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of an archive by their names in it, each at a path in ``folder`` until the next is asked for.

    Raises DataError for an archive that is damaged. Hidden files and what is no file (links, devices) are passed over.
    """
    opened = _zipped if kind == "ZIP" else _tarred
    name = ""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for number, (name, stream) in enumerate(opened(path)):
            target = folder / f"{number}{''.join(PurePosixPath(name).suffixes[-2:])[-20:]}"
            with stream, target.open("wb") as out:
                shutil.copyfileobj(stream, out, 1 << 20)
            yield name, target
            target.unlink()
    except (*DAMAGES, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's
        after = f" after {name}" if name else ""
        raise DataError(
            f"{shown(path)}: the archive is damaged or locked{after} ({first_line(error)}): copy it again, or unpack it"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _zipped(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        _must_be_one(path, archive)
        for entry in archive.infolist():
            name = _name(entry)
            if not entry.is_dir() and _is_visible(name):
                yield name, archive.open(entry)


FILE_SIGN, LAST_SIGN, LAST_BYTES = b"PK\x03\x04", b"PK\x05\x06", 22
"""What stands before a file in a ZIP archive, and before its last record, which has so many bytes and a comment behind them."""


def _must_be_one(path: Path, archive: zipfile.ZipFile) -> None:
    """zipfile reads what the last list of files in it names, and so a part for the whole where archives stand one behind another.

    Raises BadZipFile for these. What stands before or behind without being an archive, as a program that unpacks itself, is none of its files.
    """
    with path.open("rb") as file:
        begins = file.read(len(FILE_SIGN))
        file.seek(-min(path.stat().st_size, LAST_BYTES + (1 << 16)), 2)
        end = file.read()
    first = min((entry.header_offset for entry in archive.infolist()), default=archive.start_dir)
    if begins == FILE_SIGN and first > 0:
        raise zipfile.BadZipFile("it begins with files that its list does not name, as several archives in one file do")
    behind = end[end.rfind(LAST_SIGN) + LAST_BYTES + len(archive.comment) :]
    if FILE_SIGN in behind:
        raise zipfile.BadZipFile("it goes on behind its end, as several archives in one file do")


UTF8_FLAG = 0x800


def _name(entry: zipfile.ZipInfo) -> str:
    """Where the format says nothing, zipfile takes a name for the code page of 1981. Chinese Windows writes GBK, and macOS UTF-8."""
    if entry.flag_bits & UTF8_FLAG:
        return entry.filename
    try:
        content = entry.filename.encode("cp437")
    except UnicodeError:
        return entry.filename
    try:
        name = content.decode()
    except UnicodeDecodeError:
        return readable(content)
    # Two letters of GBK may be one of UTF-8's of two bytes, which Chinese has none of.
    return (
        name
        if name.isascii() or any(character >= "\u0800" for character in name)
        else content.decode("gb18030", "replace")
    )


def readable(name: bytes) -> str:
    """A name as text: UTF-8, else GBK as old Windows wrote it."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("gb18030", "replace")


class _Entry(tarfile.TarInfo):
    """tarfile takes what is no entry for the end of the archive, and so a part of one for the whole."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no entry and no end of an archive at byte {archive.offset:,}") from error


def _tarred(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with (
        open_bytes(path) as stream,
        tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape", tarinfo=_Entry) as archive,
    ):
        while (entry := archive.next()) is not None:
            name = readable(entry.name.encode("utf-8", "surrogateescape"))
            if entry.isfile() and _is_visible(name):
                yield name, cast("IO[bytes]", archive.extractfile(entry))
            archive.members.clear()  # type: ignore[attr-defined]  # it keeps all, and there may be millions
        while rest := archive.fileobj.read(1 << 20):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("it goes on behind its end, as several archives in one file do")


def _is_visible(name: str) -> bool:
    """Not what macOS and the shell put beside what was packed."""
    parts = PurePosixPath(name).parts
    return not any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts)
