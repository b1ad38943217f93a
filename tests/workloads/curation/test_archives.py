"""Archives: their files are read as others are, told by their names in them, and leave nothing behind."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from tests.workloads.curation.corpora import run
from workloads.curation import archives
from workloads.errors import DataError

FILES = {
    "诗/a.jsonl": "".join(
        json.dumps({"text": f"第{number}首"}, ensure_ascii=False) + "\n" for number in range(3)
    ).encode(),
    "b.txt": "白日依山尽".encode("gbk") * 40,
    "c.txt.gz": gzip.compress("黄河入海流".encode() * 40),
    "README.md": b"about",
    "__MACOSX/._a.jsonl": b"rubbish",
    ".hidden.txt": b"rubbish",
}


def zipped(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, pack: str = "") -> Path:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    path.write_bytes({"": bytes, "gz": gzip.compress, "bz2": bz2.compress}[pack](out.getvalue()))
    return path


def names(folder: Path) -> list[str]:
    made = run(folder, sources=[{"uri": str(folder / "raw"), "name": "raw"}], deduplicate={"exact": "None"})
    assert not list((folder / "cache").rglob("unpacked/*"))
    assert [note["what"] for note in made.report["notes"]] == ["files of archives were not read"]
    return [row["id"] for row in made.rows()]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2"])
def test_the_files_of_an_archive_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw" / name
    if name.endswith(".zip"):
        zipped(path)
    else:
        tarred(path, {".tar": "", ".gz": "gz", ".tgz": "gz", ".bz2": "bz2"}[path.suffix])
    assert names(tmp_path) == [
        *(f"raw/{name}/诗/a.jsonl, line {number}" for number in (1, 2, 3)),
        f"raw/{name}/b.txt, part 1",
        f"raw/{name}/c.txt.gz, part 1",
    ]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda data: data[: len(data) // 2], "the archive is damaged or locked", id="cut"),
        pytest.param(lambda data: data[:200] + bytes(60) + data[260:], "", id="overwritten"),
    ],
)
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_damaged_archive_is_told_with_its_name(tmp_path: Path, name: str, spoil, message: str) -> None:
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw" / name
    zipped(path) if name == "a.zip" else tarred(path, "gz")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError) as caught:
        run(tmp_path, sources=[{"uri": str(tmp_path / "raw")}])
    assert str(path) in str(caught.value)
    assert "damaged" in str(caught.value)
    assert message in str(caught.value) or "the gzip stream is damaged" in str(caught.value)


CUTS = {
    "within a file": lambda data: data[:700],
    "between two entries": lambda data: data[:1024],
    "within an entry": lambda data: data[:1100],
    "without its end": lambda data: data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512),
    "an entry overwritten": lambda data: data[:1024] + b"\xff" * 512 + data[1536:],
    "two in one file": lambda data: data + data,
}


@pytest.mark.parametrize("name", CUTS)
def test_no_part_of_an_archive_is_taken_for_the_whole(tmp_path: Path, name: str) -> None:
    """tarfile itself reads what comes before and says nothing."""
    path = tarred(tmp_path / "a.tar")
    whole = path.read_bytes()
    assert len(list(archives.members(path, "Tar", tmp_path / "scratch"))) == 4
    path.write_bytes(CUTS[name](whole))
    with pytest.raises(DataError, match=r"a\.tar: the archive is damaged or locked"):
        list(archives.members(path, "Tar", tmp_path / "scratch"))


def zip_of(files: dict[str, bytes], pack: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", pack) as archive:
        archive.comment = comment
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


ONE, OTHER = zip_of({"a.txt": b"a" * 99}), zip_of({"b.txt": b"b" * 99})


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(ONE + OTHER, id="two in one file"),
        pytest.param(ONE + OTHER[:90], id="a second one that is cut"),
        pytest.param(ONE + zip_of({}), id="an empty one behind"),
    ],
)
def test_of_zip_archives_in_one_file_none_is_taken_for_all(tmp_path: Path, content: bytes) -> None:
    """zipfile itself reads what the last list of files that it finds names."""
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    assert len(zipfile.ZipFile(path).namelist()) < 2
    with pytest.raises(DataError, match=r"a\.zip: the archive is damaged or locked .* several archives in one file"):
        list(archives.members(path, "ZIP", tmp_path / "scratch"))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"#!/bin/sh\nunzip $0\n" + ONE, id="a program that unpacks itself"),
        pytest.param(ONE + bytes(600), id="filled up with zeros"),
        pytest.param(zip_of({"a.txt": b"a" * 99}, comment="诗".encode() * 99), id="with a comment"),
    ],
)
def test_what_stands_beside_an_archive_does_not_lock_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    assert [name for name, _ in archives.members(path, "ZIP", tmp_path / "scratch")] == ["a.txt"]


def test_a_file_of_a_zip_archive_that_bzip2_packed_is_told_when_damaged(tmp_path: Path) -> None:
    content = bytearray(zip_of({"a.txt": b"a" * 9999}, zipfile.ZIP_BZIP2))
    content[60] ^= 0x55
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(
        DataError, match=r"a\.zip: the archive is damaged or locked after a\.txt \(Invalid data stream\)"
    ):
        list(archives.members(tmp_path / "a.zip", "ZIP", tmp_path / "scratch"))


def test_a_name_that_leads_out_of_an_archive_is_read_like_any_other(tmp_path: Path) -> None:
    """No file is written under its name, and it is not hidden."""
    (tmp_path / "a.zip").write_bytes(zip_of({"../up.txt": b"a", "/x/top.txt": b"b"}))
    found = [name for name, _ in archives.members(tmp_path / "a.zip", "ZIP", tmp_path / "scratch")]
    assert found == ["../up.txt", "/x/top.txt"]


def test_an_archive_of_very_many_files_takes_no_more_memory(tmp_path: Path) -> None:
    path, taken = tmp_path / "a.tar", []
    with tarfile.open(path, "w") as archive:
        for number in range(3000):
            archive.addfile(tarfile.TarInfo(f"{number}.txt"), io.BytesIO())
    tracemalloc.start()
    try:
        for number, _ in enumerate(archives.members(path, "Tar", tmp_path / "scratch")):
            if number in (500, 2900):
                taken.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert taken[1] - taken[0] < 200_000


def test_what_is_wrong_in_a_file_is_told_with_its_place(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/broken.jsonl", '{"text": "a"}\n{')
    with pytest.raises(DataError) as caught:
        run(tmp_path, sources=[{"uri": str(tmp_path / "a.zip")}])
    assert str(caught.value).startswith(f"{tmp_path / 'a.zip'}, x/broken.jsonl, line 2: not JSON")


def test_a_bound_holds_within_an_archive(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip")
    made = run(tmp_path, sources=[{"uri": str(tmp_path / "a.zip"), "maxDocuments": 2}])
    assert len(made.rows()) == 2


def test_a_name_in_gbk_is_read_as_such() -> None:
    entry = zipfile.ZipInfo("诗.txt".encode("gbk").decode("cp437"))
    assert archives._name(entry) == "诗.txt"
    entry = zipfile.ZipInfo("诗.txt")
    entry.flag_bits |= archives.UTF8_FLAG
    assert archives._name(entry) == "诗.txt"


def test_a_name_that_macos_wrote_is_read_as_such() -> None:
    """It writes UTF-8, and does not say so."""
    entry = zipfile.ZipInfo("唐诗/诗.txt".encode().decode("cp437"))
    assert archives._name(entry) == "唐诗/诗.txt"
    assert archives._name(zipfile.ZipInfo("a/b.txt")) == "a/b.txt"


def test_a_name_of_a_tar_archive_in_gbk_is_read_as_such(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="gbk") as archive:
        archive.addfile(tarfile.TarInfo("唐诗三百首.txt"), io.BytesIO())
    assert [name for name, _ in archives.members(tmp_path / "a.tar", "Tar", tmp_path / "scratch")] == ["唐诗三百首.txt"]
