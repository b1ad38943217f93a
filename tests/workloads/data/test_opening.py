"""Packed files are read everywhere; what is no text is named for what it is; a file without an ending is looked at."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from alpaca_operator.api.conversations import DataSource
from alpaca_operator.api.corpus import CorpusSource
from alpaca_operator.api.evaluation import Prompts
from workloads.data import corpus
from workloads.data.opening import open_bytes
from workloads.data.report import Report
from workloads.data.rows import Reading, read
from workloads.errors import DataError, InputError
from workloads.evaluation import questions

LINE = "他们在江边走了很久，谁也没有说话。"
ROWS = [{"instruction": LINE, "output": "好", "text": LINE, "question": LINE}] * 3
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
CSV = ("instruction,output,text,question\n" + f"{LINE},好,{LINE},{LINE}\n" * 3).encode()


def zstd(content: bytes) -> bytes:
    out = io.BytesIO()
    with pyarrow.CompressedOutputStream(pyarrow.PythonFile(out, mode="w"), "zstd") as stream:
        stream.write(content)
        stream.flush()
        return _finished(stream, out)


def _finished(stream: pyarrow.CompressedOutputStream, out: io.BytesIO) -> bytes:
    kept: list[bytes] = []
    out.close = lambda: kept.append(out.getvalue())  # type: ignore[method-assign]
    stream.close()
    return kept[0]


def spoken(path: Path) -> list[str]:
    return [row.messages[0]["content"] for row in read([(DataSource(uri="x"), path)], Reading())]


def text_of(path: Path) -> str:
    tally = corpus.Tally()
    return "\n".join(corpus.texts(corpus.files_of([(CorpusSource(uri="x"), path)], tally), tally))


def asked(path: Path) -> list[str]:
    return [one.text for one in questions.load(Prompts.model_validate({"file": {"uri": str(path)}}), path)]


@pytest.mark.parametrize(
    "pack",
    [pytest.param(gzip.compress, id="gzip"), pytest.param(bz2.compress, id="bzip2"), pytest.param(zstd, id="zstd")],
)
@pytest.mark.parametrize("ending", [".gz", ".bz2", ".zst"])
@pytest.mark.parametrize(("name", "content"), [("rows.jsonl", JSONL), ("rows.csv", CSV)])
def test_packed_rows_are_read_by_everyone_alone_and_in_a_folder(
    tmp_path: Path, pack: Callable[[bytes], bytes], ending: str, name: str, content: bytes
) -> None:
    path = tmp_path / f"{name}{ending}"
    path.write_bytes(pack(content))
    for where in (path, tmp_path):
        assert (spoken(where), text_of(where), asked(where)) == ([LINE] * 3, "\n".join([LINE] * 3), [LINE] * 3)


@pytest.mark.parametrize(
    "pack",
    [pytest.param(gzip.compress, id="gzip"), pytest.param(bz2.compress, id="bzip2"), pytest.param(zstd, id="zstd")],
)
def test_a_packed_novel_is_a_novel(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "novel.txt.gz").write_bytes(pack((LINE + "\n").encode("gbk") * 2))
    assert text_of(tmp_path) == f"{LINE}\n{LINE}\n"


@pytest.mark.parametrize(("pack", "reason"), [
    pytest.param(gzip.compress, "Compressed file ended before the end-of-stream marker was reached", id="gzip"),
    pytest.param(bz2.compress, "Compressed file ended before the end-of-stream marker was reached", id="bzip2"),
    pytest.param(zstd, "Truncated compressed stream", id="zstd"),
])  # fmt: skip
def test_a_stream_that_breaks_off_is_told(tmp_path: Path, pack: Callable[[bytes], bytes], reason: str) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(pack(JSONL)[:-9])
    with pytest.raises(DataError) as refusal:
        spoken(path)
    packer = {gzip.compress: "gzip", bz2.compress: "bzip2", zstd: "zstd"}[pack]
    assert str(refusal.value) == f"{path}: the {packer} stream is damaged ({reason}): copy the file again"


FIRST, SECOND = bz2.compress(JSONL), bz2.compress(JSONL * 50)


@pytest.mark.parametrize("packed", [
    pytest.param(FIRST + SECOND[:2] + b"x" + SECOND[3:], id="at the head of a stream behind the first"),
    pytest.param(FIRST + SECOND[:30] + b"\0\0" + SECOND[32:], id="within a stream behind the first"),
    pytest.param(FIRST + b"something else", id="by what is no stream"),
])  # fmt: skip
def test_of_a_damaged_bzip2_file_no_part_is_taken_for_the_whole(tmp_path: Path, packed: bytes) -> None:
    """bz2 itself takes a stream that it cannot unpack for something that was put behind, and says nothing."""
    path = tmp_path / "rows.jsonl.bz2"
    path.write_bytes(packed)
    with bz2.open(path) as stream:
        assert stream.read() == JSONL
    with pytest.raises(DataError, match="the bzip2 stream is damaged"):
        text_of(path)


def test_the_streams_of_a_bzip2_file_are_read_one_after_another(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.bz2"
    path.write_bytes(FIRST * 2000 + bytes(100) + SECOND + bytes(70_000))
    with open_bytes(path) as stream:
        assert stream.read() == JSONL * 2050
    path.write_bytes(FIRST + SECOND[:-9])
    with pytest.raises(DataError, match="Compressed file ended before"):
        text_of(path)


def zipped(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("rows.jsonl", content)
    return out.getvalue()


def tarred(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("rows.jsonl")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


REPACK = "unpack it, or pack it as .gz or .zst, which are read as they are"
UNPACK = "unpack it, and name the files"
FOREIGN = pytest.mark.parametrize(("content", "what"), [
    pytest.param(zipped(JSONL), f"a ZIP archive (as .docx, .xlsx and .epub are){{}}: {UNPACK}", id="zip"),
    pytest.param(gzip.compress(bz2.compress(JSONL)), f"a bzip2 file{{}}: {REPACK}", id="bzip2 in gzip"),
    pytest.param(lzma.compress(JSONL), f"an xz file{{}}: {REPACK}", id="xz"),
    pytest.param(tarred(JSONL), f"a tar archive{{}}: {UNPACK}", id="tar"),
    pytest.param(gzip.compress(tarred(JSONL)), f"a tar archive{{}}: {UNPACK}", id="tar in gzip"),
    pytest.param(b"7z\xbc\xaf\x27\x1c" + bytes(64), f"a 7-Zip archive{{}}: {UNPACK}", id="7-Zip"),
    pytest.param(b"%PDF-1.7\n1 0 obj\n", "a PDF{}: convert it to text, JSON lines, CSV or Parquet", id="PDF"),
])  # fmt: skip


@FOREIGN
@pytest.mark.parametrize("name", ["wiki_00", "rows.jsonl", "rows.csv", "novel.txt", "rows.bin"])
def test_what_is_no_text_is_named_whatever_it_is_called(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for reader in (spoken, text_of, asked) if name != "novel.txt" else (text_of,):
        with pytest.raises(DataError) as refusal:
            reader(path)
        assert str(refusal.value) == f"{path}: it is {what.format(', no text')}"


@FOREIGN
def test_in_a_folder_it_is_left_out_and_named(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "more.archive").write_bytes(content)
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    line = f"{tmp_path}: not read, each is {what.format('')}: more.archive"
    if "PDF" in what:
        line = f"{tmp_path}: not read, each is a PDF: more.archive"
    reading, tally = Reading(), corpus.Tally()
    list(read([(DataSource(uri="x"), tmp_path)], reading))
    corpus.files_of([(CorpusSource(uri="x"), tmp_path)], tally)
    assert (reading.not_read[0], tally.problem_lines()) == (line, [line])


def parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


def feather(path: Path) -> None:
    pyarrow.feather.write_feather(pyarrow.Table.from_pylist(ROWS), str(path))


def stream(path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.OSFile(str(path), "wb") as out, pyarrow.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)


COLUMNAR = pytest.mark.parametrize(("make", "name"), [
    (parquet, "rows.parquet"), (feather, "rows.arrow"), (feather, "rows.feather"), (stream, "rows.arrow"),
])  # fmt: skip


@COLUMNAR
def test_columns_are_read_alike(tmp_path: Path, make: Callable[[Path], None], name: str) -> None:
    make(tmp_path / name)
    assert (spoken(tmp_path), text_of(tmp_path)) == ([LINE] * 3, "\n".join([LINE] * 3))


def test_feather_of_the_first_version_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.feather").write_bytes(b"FEA1" + bytes(60) + b"FEA1")
    with pytest.raises(DataError) as refusal:
        spoken(tmp_path)
    assert str(refusal.value) == (
        f"{tmp_path}/rows.feather: it is Feather of the first version, not Arrow: write it again with version=2"
    )


@COLUMNAR
@pytest.mark.parametrize("harm", ["cut", "half", "empty", "foreign", "packed"])
def test_columns_that_are_cut_or_foreign_are_data_errors_with_the_file(
    tmp_path: Path, make: Callable[[Path], None], name: str, harm: str
) -> None:
    path = tmp_path / name
    make(path)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:-40],
            "half": whole[: len(whole) // 2],
            "empty": b"",
            "foreign": zipped(JSONL),
            "packed": gzip.compress(whole),
        }[harm]
    )
    for reader in (spoken, text_of):
        with pytest.raises(DataError) as refusal:
            reader(path)
        assert str(refusal.value).startswith(f"{path}: ")
        assert any(remedy in str(refusal.value) for remedy in ("copy the file again", "unpack it"))


def test_a_file_without_an_ending_is_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "wiki_00"
    path.write_bytes(JSONL)
    assert (spoken(path), text_of(path)) == ([LINE] * 3, "\n".join([LINE] * 3))
    path.write_bytes(JSONL.decode().encode("utf-16"))
    assert text_of(path) == "\n".join([LINE] * 3)
    parquet(path)
    assert (spoken(path), text_of(path)) == ([LINE] * 3, "\n".join([LINE] * 3))
    path.write_text(f"[序]\n{LINE}\n")
    assert text_of(path) == f"[序]\n{LINE}\n"


def test_linked_folders_are_read_and_what_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "set" / "more").symlink_to(tmp_path / "disk")
    (tmp_path / "set" / "a.jsonl").write_bytes(JSONL)
    (tmp_path / "disk" / "b.jsonl").write_bytes(JSONL)
    (tmp_path / "disk" / "README.md").write_text("about")
    reading = Reading()
    assert len(list(read([(DataSource(uri="x"), tmp_path / "set")], reading))) == 6
    assert text_of(tmp_path / "set") == "\n".join([LINE] * 6)
    assert reading.not_read[0].startswith(f"{tmp_path}/set: not read, as they end in none of .arrow, ")
    assert reading.not_read[0].endswith(": more/README.md")
    assert reading.not_read[0] in Report(files=reading.files, not_read=reading.not_read).lines()


def test_what_is_not_read_of_a_folder_of_questions_is_logged(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    (tmp_path / "b.jsonl.zip").write_bytes(zipped(JSONL))
    said: list[str] = []
    questions.load(Prompts.model_validate({"file": {"uri": str(tmp_path)}}), tmp_path, said.append)
    assert said == [
        f"prompts: {tmp_path}: not read, each is a ZIP archive (as .docx, .xlsx and .epub are): {UNPACK}: b.jsonl.zip"
    ]


def test_what_datasets_left_beside_the_rows_that_it_saved_is_not_read(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "set"))
    stream(tmp_path / "set" / "cache-1234.arrow")
    assert (spoken(tmp_path), text_of(tmp_path)) == ([LINE] * 3, "\n".join([LINE] * 3))
    (tmp_path / "set" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(
        InputError, match=r"data-00000-of-00001\.arrow is missing, which .*state\.json names: copy the data set again"
    ):
        spoken(tmp_path)


def test_a_name_that_is_not_utf_8_is_read_and_shown(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode("问.jsonl".encode("gbk"))
    path.write_bytes(JSONL)
    reading = Reading()
    rows = list(read([(DataSource(uri="x"), tmp_path)], reading))
    assert (rows[0].file, reading.files) == (
        rf"{tmp_path}/\xce\xca.jsonl",
        [rf"{tmp_path}/\xce\xca.jsonl: Alpaca (by columns instruction, output), utf-8; not read: text, question"],
    )
    assert text_of(tmp_path) == "\n".join([LINE] * 3)
    for make, name in ((stream, "答.arrow"), (parquet, "红.parquet")):
        make(tmp_path / "plain")
        (tmp_path / "plain").rename(tmp_path / os.fsdecode(name.encode("gbk")))
    assert len(spoken(tmp_path)) == 9


def test_a_file_that_the_system_cannot_read_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to("a.jsonl")
    with pytest.raises(InputError) as refusal:
        open_bytes(tmp_path / "a.jsonl")
    assert str(refusal.value) == (
        f"cannot read {tmp_path}/a.jsonl: Too many levels of symbolic links: its links lead in a circle: link to the file itself"
    )
