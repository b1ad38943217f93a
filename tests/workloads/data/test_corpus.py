"""Text is read in any encoding and format, in bounded memory; what cannot be read is named by file and row."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from alpaca_operator.api.corpus import CorpusSource
from tests.workloads.literature import chinese, english
from workloads.data.bad_rows import BadRows
from workloads.data.corpus import BLOCK, SENTENCE_LIMIT, Tally, files_of, sentences, texts
from workloads.data.encodings import encoding_of
from workloads.errors import DataError

NOVEL = "\n".join(["第一回　风雨故人来", "", *chinese(300)]) + "\n"
OLD_NOVEL = "\n".join(
    ["話說天下大勢，分久必合，合久必分。", "卻說當時朝廷無道，百姓不得安寧；", "於是有人說道：「何不往山中去？」"] * 60
)


def read(path: Path, **source: Any) -> tuple[str, Tally]:
    """All text at ``path``, rows apart by a line, and the tally."""
    tally = Tally()
    files = files_of([(CorpusSource(uri=str(path), **source), path)], tally)
    return "\n".join(text.removesuffix("\n") for text in texts(files, tally)), tally


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("text", "encoding", "found"),
    [
        pytest.param(NOVEL, "utf-8", "utf-8", id="UTF-8"),
        pytest.param(NOVEL, "utf-8-sig", "utf-8-sig", id="UTF-8 with a mark"),
        pytest.param(NOVEL, "gbk", "gb18030", id="GBK, as web novels are"),
        pytest.param(NOVEL + "𠮷野家", "gb18030", "gb18030", id="GB18030 with characters of four bytes"),
        pytest.param(OLD_NOVEL, "big5", "big5hkscs", id="Big5"),
        pytest.param(NOVEL, "utf-16", "utf-16", id="UTF-16 with a mark"),
        pytest.param(NOVEL, "utf-16-le", "utf_16_le", id="UTF-16 without a mark, little endian"),
        pytest.param(NOVEL, "utf-16-be", "utf_16_be", id="UTF-16 without a mark, big endian"),
        pytest.param(NOVEL, "utf-32", "utf-32", id="UTF-32"),
        pytest.param("Preface.\n" * 40_000 + NOVEL, "gbk", "gb18030", id="Chinese after many pages of ASCII"),
        pytest.param("春风又绿江南岸，明月何时照我还？", "gbk", "gb18030", id="one line of GBK"),
        pytest.param("plain ASCII, nothing else\n", "ascii", "utf-8", id="ASCII"),
        pytest.param(
            "Un poète à l’époque où l’été était tiède, près de Zürich.\n" * 20, "cp1252", "cp1252", id="French"
        ),
        pytest.param(
            "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n" * 20, "cp932", "cp932", id="Japanese"
        ),
    ],
)
def test_the_encoding_of_a_file_is_told_from_a_sample(tmp_path: Path, text: str, encoding: str, found: str) -> None:
    path = written(tmp_path / "novel.txt", text.encode(encoding))
    assert encoding_of(path) == found
    content, tally = read(path)
    assert content == text.removesuffix("\n")
    assert (tally.files, dict(tally.encodings), dict(tally.problems)) == (1, {found: 1}, {})


def test_a_named_encoding_is_taken_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "short.txt", "中".encode("big5"))
    assert read(path, encoding="big5")[0] == "中"


def test_a_folder_mixes_encodings_and_keeps_its_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    written(tmp_path / "b" / "2.TXT", "第二回，他们都来了。\n".encode("gbk"))
    written(tmp_path / "a.txt", "第一回。\n")
    written(tmp_path / "c.txt", "第三回，我们也在了。".encode("utf-16"))
    written(tmp_path / "cover.jpg", b"\xff\xd8\xff")
    written(tmp_path / ".hidden.txt", "no")
    content, tally = read(tmp_path)
    assert content == "第一回。\n第二回，他们都来了。\n第三回，我们也在了。"
    assert tally.lines() == [
        "read 3 files, 56 bytes, 26 characters (1 in utf-8, 1 in gb18030, 1 in utf-16)",
        f"{tmp_path}: not read, as their names begin with a dot: .hidden.txt",
        f"{tmp_path}: not read, each is a picture: cover.jpg",
    ]


def test_sources_are_never_changed(tmp_path: Path) -> None:
    path = written(tmp_path / "novel.txt", NOVEL.encode("gbk") + b"\xff\xff")
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    read(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["novel.txt"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_become_one(tmp_path: Path, end: str) -> None:
    assert read(written(tmp_path / "a.txt", end.join(["一", "二", "", "三"])))[0] == "一\n二\n\n三"


def test_damaged_bytes_are_left_out_and_counted(tmp_path: Path) -> None:
    content = NOVEL.encode("gbk")
    at = content.index(b"\n", 3000) + 1
    content, tally = read(written(tmp_path / "novel.txt", content[:at] + b"\xff" + content[at:]))
    assert content == NOVEL.removesuffix("\n")
    row = NOVEL.encode("gbk")[:at].count(b"\n") + 1
    assert tally.lines()[1] == f"1 undecodable characters left out (first: {tmp_path / 'novel.txt'}, row {row})"


def test_a_file_of_another_encoding_than_named_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "novel.txt", NOVEL.encode("gbk"))
    with pytest.raises(DataError) as error:
        read(path, encoding="utf-8")
    message = str(error.value)
    assert message.startswith(f"{path}, row 1: ")
    assert message.endswith("characters are not valid utf-8: name dataset.train[].encoding, or mend the file")


def test_a_program_is_no_text(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", bytes(range(256)) * 64)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value) == (
        f"{path}: its encoding cannot be told, or it is no text: name dataset.train[].encoding, or remove the file"
    )


def test_an_empty_file_is_passed_over(tmp_path: Path) -> None:
    for name in ("a.txt", "b.jsonl", "c.csv"):
        written(tmp_path / name, b"")
    assert read(tmp_path)[1].lines()[1] == f"3 empty files passed over (first: {tmp_path / 'a.txt'})"


def rows(path: Path, texts: list[Any], column: str = "text") -> None:
    """Writes a file by its ending."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"id": range(len(texts)), column: texts}), path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writerows([("id", column), *enumerate(texts)])
    else:
        path.write_text("".join(json.dumps({"id": number, column: text}) + "\n" for number, text in enumerate(texts)))


ROWS = ["春天来了。", 'comma, "quote"\tand\nline', "长" * 400_000, "😀龘"]


@pytest.mark.parametrize("ending", [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("column", ["text", "内容"])
def test_rows_are_read_whole(tmp_path: Path, ending: str, column: str) -> None:
    rows(tmp_path / f"a{ending}", ROWS, column)
    content, tally = read(tmp_path, columns={"text": column})
    assert content == "\n".join(ROWS)
    assert (tally.rows, dict(tally.problems)) == (4, {})


def test_json_lines_may_be_plain_strings(tmp_path: Path) -> None:
    assert read(written(tmp_path / "a.jsonl", '"一"\n\n"二"'))[0] == "一\n二"


def test_half_a_character_in_json_is_left_out(tmp_path: Path) -> None:
    content, tally = read(written(tmp_path / "a.jsonl", '{"text": "a\\ud83db"}\n{"text": "\\ud83d\\ude00"}\n'))
    assert content == "ab\n😀"
    assert tally.lines()[1] == f"1 undecodable characters left out (first: {tmp_path / 'a.jsonl'}, row 1)"


def test_the_line_by_which_excel_names_the_separator(tmp_path: Path) -> None:
    assert read(written(tmp_path / "a.csv", 'sep=;\r\nid;text\r\n1;"一,二"\r\n'))[0] == "一,二"


def test_nan_of_pandas_is_no_text(tmp_path: Path) -> None:
    content, tally = read(written(tmp_path / "a.jsonl", '{"text": NaN}\n{"text": "一"}\n'))
    assert content == "一"
    assert tally.lines()[1] == f"1 rows without text passed over (first: {tmp_path / 'a.jsonl'}, row 1)"


def test_one_nul_in_a_novel_is_a_character(tmp_path: Path) -> None:
    for encoding in ("utf-8", "gbk"):
        content, tally = read(
            written(tmp_path / f"{encoding}.txt", (NOVEL[:300] + "\0" + NOVEL[300:]).encode(encoding))
        )
        assert content.replace("\0", "") == NOVEL.removesuffix("\n")
        assert sum(tally.encodings.values()) == 1


def test_bad_rows_are_passed_over_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"text": "一"}\n{"text": \n{"内容": "x"}\n{"text": 5}\n{"text": "二"}\n')
    written(tmp_path / "b.csv", "id,text\n1,三\n2,四,五\n3,六\n")
    tally = Tally(bad=BadRows(limit=4))
    assert "\n".join(texts(files_of([(CorpusSource(uri="x"), tmp_path)], tally), tally)) == "一\n二\n三\n六"
    assert tally.bad.counted.total() == 4
    assert any(
        f"{tmp_path / 'b.csv'}, row 3 (line 3): 3 fields where the header has 2" in line for line in tally.lines()
    )
    few = Tally(bad=BadRows(limit=2))
    with pytest.raises(DataError) as refusal:
        list(texts(files_of([(CorpusSource(uri="x"), path)], few), few))
    assert str(refusal.value) == (
        f"{path}, row 4: 'text' is a int, not text: '5' (row 3 that cannot be used, and maxBadRows is 2)"
    )


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_rows_without_text_are_passed_over(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    rows(path, ["一", None, "", "二"])
    content, tally = read(path)
    assert content == "一\n二"
    where = f"{path}, row {3 if ending == '.csv' else 2}"  # the header is a row
    assert tally.lines()[1] == f"2 rows without text passed over (first: {where})"


def parquet_of_numbers(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2]}), path)


def half_a_parquet(path: Path) -> None:
    rows(path, ["一"] * 1000)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param(
            "a.jsonl", '{"text": "一", "text": "二"}\n',
            ", row 1: not JSON (the name 'text' stands twice in one object, and only one of its values could be read): '{\"text\": \"一\", "
            "\"text\": \"二\"}'", id="a name that stands twice",
        ),
        pytest.param(
            "a.csv", "text,text\n一,二\n", ", row 1: the column 'text' stands twice: rename or remove one of them", id="a column that stands twice",
        ),
        pytest.param(
            "a.jsonl", '{"text": "一"}\n{"text": \n',
            ", row 2: not JSON (Expecting value: line 1 column 10 (char 9)): '{\"text\": '", id="a broken row",
        ),
        pytest.param(
            "a.json", '[\n{"text": "一"}]',
            ", row 1: not JSON (Expecting value: line 1 column 2 (char 1)): '['; a file that is one JSON array has to be written as JSON lines first",
            id="a JSON array",
        ),
        pytest.param("a.jsonl", "\n[1]\n", ", row 2: a list instead of an object with 'text': '[1]'", id="a row of another shape"),
        pytest.param(
            "a.jsonl", '{"title": "一", "body": "二"}\n',
            ", row 1: no 'text'; it has 'title', 'body': set dataset.train[].columns.text to one of them", id="another key",
        ),
        pytest.param("a.jsonl", '{"text": 5}\n', ", row 1: 'text' is a int, not text: '5'", id="a number"),
        pytest.param(
            "a.csv", "标题,内容\n一,二\n",
            ", row 1: no column 'text'; it has '标题', '内容': set dataset.train[].columns.text to one of them", id="another column",
        ),
        pytest.param(
            "a.csv", "text,b\n一,二\n一，二,三,四\n",
            ", row 3 (line 3): 3 fields where the header has 2: quote fields that hold ','", id="a comma that is not quoted",
        ),
        pytest.param("a.csv", 'text\n"一\n', ", line 2: not CSV (unexpected end of data): mend its quotes", id="an open quote"),
        pytest.param("a.parquet", parquet_of_numbers, ", row 1: 'text' is a int, not text: '1'", id="a column of numbers"),
        pytest.param(
            "a.parquet", half_a_parquet,
            ": cannot be read as Parquet after row 0: Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file.: copy the file again",
            id="half a Parquet file",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: str | Callable[[Path], None], message: str
) -> None:
    path = tmp_path / name
    if isinstance(content, str):
        written(path, content)
    else:
        content(path)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value) == f"{path}{message}"


def test_a_folder_without_texts_is_an_error(tmp_path: Path) -> None:
    written(tmp_path / "cover.jpg", b"\xff")
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: no file in it ends in .txt, .text, .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, .feather: name the folder of the "
        "texts, or set dataset.train[].format"
    )


def test_a_named_format_takes_every_file_of_a_folder(tmp_path: Path) -> None:
    written(tmp_path / "novel", "一\n")
    written(tmp_path / "novel.md", "二\n")
    assert read(tmp_path, format="Text")[0] == "一\n二"


def test_a_file_larger_than_memory_would_be_read_in_blocks(tmp_path: Path) -> None:
    line = "长" * 997 + "。"
    with (tmp_path / "a.txt").open("w", encoding="utf-8") as file:
        for number in range(4000):
            file.write(f"{line}{chr(10) if number % 1000 else ''}")
    tally = Tally()
    tracemalloc.start()
    try:
        count = sum(
            len(lines) for lines in sentences(texts(files_of([(CorpusSource(uri="a"), tmp_path)], tally), tally))
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert tally.bytes > 11 * BLOCK
    assert count >= tally.characters / SENTENCE_LIMIT
    assert peak < 10 * BLOCK  # characters of two bytes, and copies of a block


def test_long_lines_are_split_at_sentence_ends() -> None:
    line = "".join(chinese(400))
    parts = [part for lines in sentences([line, "短句", "\n\n"]) for part in lines]
    assert parts.pop() == "短句"
    assert "".join(parts) == line
    assert all(len(part) <= SENTENCE_LIMIT and part[-1] in "。！？" for part in parts[:-1])


def test_a_line_without_sentence_ends_is_split_all_the_same() -> None:
    parts = [part for lines in sentences(["长" * 400_000]) for part in lines]
    assert parts == ["长" * SENTENCE_LIMIT] * (400_000 // SENTENCE_LIMIT)


def test_what_sentencepiece_cannot_take_becomes_a_space() -> None:
    assert list(sentences(["一\0二▁三▅四"])) == [["一 二 三 四"]]


def test_lines_are_cut_at_characters_that_are_not_wanted() -> None:
    assert list(sentences(["春风龘又绿\n江南靐岸"], frozenset("春风又绿江南岸"))) == [["春风", "又绿", "江南", "岸"]]


def test_english_is_text_too(tmp_path: Path) -> None:
    lines = english(50)
    assert read(written(tmp_path / "a.txt", "\n".join(lines)))[0] == "\n".join(lines)
    assert encoding_of(tmp_path / "a.txt") == "utf-8"
