"""One answer to what encoding a file is in, for conversations and for a corpus; a byte order mark is never text."""

from __future__ import annotations

import codecs
import gzip
import json
from pathlib import Path

import pytest

from alpaca_operator.api.conversations import DataSource
from alpaca_operator.api.corpus import CorpusSource
from workloads.data import corpus
from workloads.data.encodings import encoding_of, first_undecodable
from workloads.data.files import open_bytes, records
from workloads.data.rows import Reading, read
from workloads.errors import DataError

LINE = "床前明月光，疑是地上霜。"

FILES = pytest.mark.parametrize(("content", "encoding"), [
    pytest.param(codecs.BOM_UTF8 + LINE.encode(), "utf-8-sig", id="UTF-8 with a mark"),
    pytest.param(codecs.BOM_UTF16_LE + LINE.encode("utf-16-le"), "utf-16", id="UTF-16 little endian with a mark"),
    pytest.param(codecs.BOM_UTF16_BE + LINE.encode("utf-16-be"), "utf-16", id="UTF-16 big endian with a mark"),
    pytest.param(codecs.BOM_UTF32_LE + LINE.encode("utf-32-le"), "utf-32", id="UTF-32 little endian, whose mark begins as that of UTF-16"),
    pytest.param(codecs.BOM_UTF32_BE + LINE.encode("utf-32-be"), "utf-32", id="UTF-32 big endian"),
    pytest.param(LINE.encode("utf-16-le"), "utf_16_le", id="UTF-16 without a mark"),
    pytest.param(LINE.encode("gbk"), "gb18030", id="GBK"),
    pytest.param(LINE.encode("big5"), "big5hkscs", id="Big5"),
    pytest.param(b"plain ASCII", "utf-8", id="ASCII"),
    pytest.param("plain ASCII".encode("utf-16-le"), "utf_16_le", id="ASCII in UTF-16, every byte of which is UTF-8 too"),
    pytest.param(LINE.encode() + b"\0" + LINE.encode(), "utf-8", id="UTF-8 with a stray NUL"),
    pytest.param(LINE.encode() * 3 + b"\xe6\x98" + LINE.encode(), "utf-8", id="UTF-8 damaged in one place"),
    pytest.param(b"", "utf-8", id="nothing"),
])  # fmt: skip


@FILES
def test_the_encoding_is_told_by_the_mark_or_from_a_sample(tmp_path: Path, content: bytes, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert encoding_of(tmp_path / "a.txt") == encoding


@FILES
def test_a_gzipped_file_is_told_alike(tmp_path: Path, content: bytes, encoding: str) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    assert encoding_of(tmp_path / "a.gz", open_bytes) == encoding


def test_gbk_is_found_when_it_begins_late(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [f'{{"instruction": "question {number}", "output": "answer"}}\n' for number in range(50_000)]
    last = '{"instruction": "请问这首诗的作者是谁？", "output": "李白。"}\n'
    path.write_bytes("".join([*rows, last]).encode("gbk"))
    assert path.stat().st_size > 1 << 21
    assert encoding_of(path) == "gb18030"
    assert list(records(path))[-1][1] == {"instruction": "请问这首诗的作者是谁？", "output": "李白。"}


ENCODINGS = pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "gbk", "big5"])


@ENCODINGS
def test_conversations_and_a_corpus_read_the_same_text(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"instruction": LINE, "output": LINE, "text": LINE}
    path.write_bytes((json.dumps(row, ensure_ascii=False) + "\n").encode(encoding))
    spoken = [row.messages[0]["content"] for row in read([(DataSource(uri="x"), path)], Reading())]
    assert (spoken, text_of(path)) == ([LINE], LINE)


@pytest.mark.parametrize(("named", "content"), [
    ("utf-8", codecs.BOM_UTF8 + LINE.encode()),
    ("utf-16", codecs.BOM_UTF16_LE + LINE.encode("utf-16-le")),
    ("utf-16-le", codecs.BOM_UTF16_LE + LINE.encode("utf-16-le")),
    ("utf-16-be", codecs.BOM_UTF16_BE + LINE.encode("utf-16-be")),
    ("gb18030", "\ufeff".encode("gb18030") + LINE.encode("gb18030")),
])  # fmt: skip
def test_a_mark_is_no_text_where_the_encoding_is_named(tmp_path: Path, named: str, content: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert text_of(path, encoding=named) == LINE


def text_of(path: Path, encoding: str = "Auto") -> str:
    tally = corpus.Tally()
    source = CorpusSource.model_validate({"uri": "x", "encoding": encoding})
    return "".join(corpus.texts(corpus.files_of([(source, path)], tally), tally))


def test_what_is_no_text_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(256)) * 64)
    with pytest.raises(DataError) as refusal:
        encoding_of(path)
    assert str(refusal.value) == (
        f"{path}: its encoding cannot be told, or it is no text: save the file as UTF-8, or remove it"
    )


def test_the_first_bytes_that_do_not_decode_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("一\n二\n三".encode() + b"\xe6\x98\n")
    with path.open("rb") as stream:
        assert first_undecodable(stream, "utf-8") == (3, "e6 98")
