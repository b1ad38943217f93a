"""Which files are read, how each is, and how they are dealt out."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.dataset import RawSource
from tests.workloads.curation.corpora import run
from workloads.curation import reading, shares
from workloads.curation.reading import Raw
from workloads.curation.shares import RawFile
from workloads.data import corpus
from workloads.data.corpus import Tally
from workloads.errors import DataError, SpecError


def source(**given: Any) -> RawSource:
    return RawSource.model_validate({"uri": "pvc://data/raw", **given})


def read(path: Path, **given: Any) -> list[Any]:
    """Every document of a file or folder, with the names of its files."""
    files, _ = shares.files_of(0, source(**given), path)
    tally = Tally()
    found: list[Any] = []
    for file in files:
        for item in reading.documents(file, source(**given), tally):
            found.append((file.name, item.place, item.text) if isinstance(item, Raw) else (file.name, *item))
    return found


def row(**values: Any) -> str:
    return json.dumps(values, ensure_ascii=False)


@pytest.mark.parametrize(
    ("name", "content", "given", "found"),
    [
        pytest.param("a.txt", "白日\r\n依山尽".encode("gbk") * 9, {}, [("part 1", "白日\n依山尽" * 9)], id="text in another encoding"),
        pytest.param("wiki_00", row(text="白日").encode(), {}, [("line 1", "白日")], id="JSON lines without an ending"),
        pytest.param("a.jsonl", b'\n{"text": "a"}\n\n"b"\n', {}, [("line 2", "a"), ("line 4", "b")], id="lines that are texts"),
        pytest.param("a.jsonl.gz", gzip.compress(row(text="白日").encode()), {}, [("line 1", "白日")], id="packed lines"),
        pytest.param("a.json", f"[{row(text='一')},\n{row(text='二')}]".encode(), {}, [("row 1", "一"), ("row 2", "二")], id="an array"),
        pytest.param("a.csv", "内容,题\n白日,登楼\n".encode("utf-8-sig"), {"columns": {"text": "内容", "title": "题"}, "encoding": "utf-8"},
                     [("line 2", "登楼\n白日")], id="a table with a byte order mark, in an encoding that is named"),
        pytest.param("a.tsv", "text\tb\n白,日\t1\n".encode(), {"format": "CSV"}, [("line 2", "白,日")], id="a table with tabs, named"),
        pytest.param("a.jsonl", row(text="登楼\n白日", title="登楼").encode(), {"columns": {"title": "title"}}, [("line 1", "登楼\n白日")],
                     id="a title that the text begins with"),
        pytest.param("a.json", b'{"train": [{"text": "a"}], "test": [{"text": "b"}, {"text": "c"}]}', {}, [("row 1", "a"), ("row 2", "b"), ("row 3", "c")],
                     id="an object of splits, all of which are read, as the files of splits are"),
        pytest.param("a.jsonl", b'{"text": "\\ud83d\xe5\xb1\xb1"}', {}, [("line 1", "山")], id="half a character"),
        pytest.param("a.jsonl", b'{"text": null}', {}, [("line 1", "")], id="a text that is null is empty"),
        pytest.param("a.jsonl", b'{"content": "a"}', {}, [("line 1", "no 'text'; it has 'content': set columns.text to one of them")], id="no such column"),
        pytest.param("a.jsonl", b'{"text": 5}', {}, [("line 1", "'text' is a int, not text")], id="a number"),
        pytest.param("a.jsonl", b"[1]", {}, [("line 1", "a list where an object with 'text' is looked for")], id="a list"),
    ],
)  # fmt: skip
def test_documents_of_a_file(tmp_path: Path, name: str, content: bytes, given: Any, found: list[Any]) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path, **given) == [(name, *each) for each in found]


def test_a_long_text_becomes_several_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST", 10)
    (tmp_path / "a.jsonl").write_text(row(text="一二三四五\n六七八九十\n" + "山" * 12), encoding="utf-8")
    parts = read(tmp_path)
    assert [text for _, _, text in parts] == ["一二三四五\n", "六七八九十\n", "山" * 10, "山" * 2]
    assert parts[0][1] == "line 1, part 1"


def test_a_long_text_file_becomes_several_documents_and_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BLOCK", 12)
    monkeypatch.setattr(reading, "LONGEST", 10)
    lines = [f"第{number}行。\n" for number in range(9)]
    (tmp_path / "a.txt").write_text("".join(lines), encoding="utf-8")
    made = run(tmp_path, sources=[{"uri": str(tmp_path / "a.txt")}], clean={"presets": []})
    assert "".join(made.texts()) == "".join(lines)
    assert max(map(len, made.texts())) == 10
    assert [row["id"] for row in made.rows()] == [f"a.txt/a.txt, part {number}" for number in range(1, 6)]
    assert made.report["notes"] == [{"what": reading.SEVERAL, "count": 1, "first": "a.txt"}]


def test_xml_that_is_no_dump_is_left_out_or_refused(tmp_path: Path) -> None:
    dump = "<!-- 说明 -->\n<mediawiki><page><title>山</title><ns>0</ns><revision><text>山高。</text></revision></page></mediawiki>"
    for name, content in (("a.xml", dump), ("b.xml", "<rss><item>新闻</item></rss>"), ("c.xml", "没有标记")):
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "d.xml").write_bytes(dump.encode("utf-16"))
    (tmp_path / "e.xml.gz").write_bytes(gzip.compress(dump.encode()))
    files, told = shares.files_of(0, source(), tmp_path)
    assert [file.name for file in files] == ["a.xml", "d.xml", "e.xml.gz"]
    assert any("not read, as their XML is no dump of MediaWiki: b.xml, c.xml" in line for line in told)
    for name in ("a.xml", "d.xml", "e.xml.gz"):
        assert read(tmp_path / name) == [(name, "page 1", "山\n山高。")]
    for given in ({}, {"format": "WikiXML"}):
        with pytest.raises(DataError, match=r"b\.xml: XML that begins with <rss>, no dump of MediaWiki"):
            read(tmp_path / "b.xml", **given)
        with pytest.raises(DataError, match=r"c\.xml: no XML after page 0"):
            read(tmp_path / "c.xml", **given)


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    for name, content in {"a.txt": b"a", "b.docx": b"PK\x03\x04", "c.md": b"text", ".d.txt": b"hidden"}.items():
        (tmp_path / name).write_bytes(content)
    files, told = shares.files_of(0, source(), tmp_path)
    assert [file.name for file in files] == ["a.txt"]
    assert any("b.docx" in line and "ZIP" in line for line in told)
    assert any("c.md" in line for line in told)
    assert any(".d.txt" in line for line in told)


def test_the_report_of_another_corpus_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.jsonl").write_text(row(text="a"), encoding="utf-8")
    for name in ("artifact.json", "report.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    assert read(tmp_path) == [("train/a.jsonl", "line 1", "a")]


def test_a_folder_with_nothing_to_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    with pytest.raises(DataError, match="no file in it that is read"):
        shares.files_of(0, source(), tmp_path)


def files(*sizes: int, source: int = 0) -> list[RawFile]:
    return [RawFile(source, Path(f"{number}"), f"{number}", "Text", size) for number, size in enumerate(sizes)]


def test_shares_are_filled_with_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "SHARE_BYTES", 10)
    dealt = shares.deal(files(4, 4, 4, 20, 1), [source()])
    assert [[file.size for file in share] for share in dealt] == [[4, 4, 4], [20], [1]]


def test_there_are_not_more_shares_than_are_useful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "SHARE_BYTES", 1)
    assert len(shares.deal(files(*[5] * 1000), [source()])) <= shares.MOST_SHARES


def test_a_source_with_a_bound_is_one_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "SHARE_BYTES", 10)
    every = [*files(20), *files(20, 20, source=1), *files(1, source=2)]
    dealt = shares.deal(every, [source(), source(maxDocuments=5), source()])
    assert [[file.source for file in share] for share in dealt] == [[0], [1, 1], [2]]


def test_sources_are_called_by_their_places() -> None:
    given = [source(), source(name="诗"), source(), source(uri=None, **{"from": {"kind": "DatasetJob", "name": "old"}})]
    assert [origin.name for origin in shares.origins(given)] == ["raw", "诗", "raw-2", "old"]
    with pytest.raises(SpecError, match=r"sources\[1\].name: a is taken"):
        shares.origins([source(name="a"), source(name="a")])


def test_a_share_of_a_very_large_corpus_is_no_larger_than_what_its_numbers_have_room_for() -> None:
    files = [RawFile(0, Path(f"{number}.txt"), f"{number}.txt", "Text", 64 << 20) for number in range(64_000)]
    dealt = shares.deal(files, [source()])
    assert sum(map(len, dealt)) == len(files)
    assert {sum(file.size for file in share) for share in dealt} == {shares.MOST_SHARE_BYTES}
    few = shares.deal(files[:640], [source()])
    assert len(few) <= shares.MOST_SHARES


@pytest.mark.parametrize(("name", "told"), [("诗".encode(), "诗"), ("白日".encode("gbk"), "白日"), (b"a\nb", "a\nb")])
def test_a_name_in_whatever_encoding_is_text(tmp_path: Path, name: bytes, told: str) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name + b".txt"))
    path.write_text("白日依山尽", encoding="utf-8")
    ((file, _, text),) = read(tmp_path)
    assert (file, text) == (f"{told}.txt", "白日依山尽")


def test_a_title_that_no_row_has_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join([row(text="白日", 标题="楼"), row(text="黄河")]), encoding="utf-8")
    made = run(tmp_path, sources=[{"uri": str(tmp_path / "a.jsonl"), "columns": {"title": "标题"}}])
    assert made.texts() == ["楼\n白日", "黄河"]
    what = "rows had no column of the title that columns.title names"
    assert made.report["notes"] == [{"what": what, "count": 1, "first": "a.jsonl, line 2"}]
