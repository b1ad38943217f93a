"""The known corpora, in small files that are laid out as theirs are."""

from __future__ import annotations

import bz2
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.dataset import RawSource
from tests.workloads.curation.corpora import run
from workloads.curation import layouts, markup, reading, shares
from workloads.curation.reading import Raw
from workloads.data.corpus import Tally
from workloads.errors import DataError

MNBVC = {
    "文件名": "a.txt", "是否待查文件": False, "是否重复文件": False, "文件大小": 100, "simhash": 1, "最长段落长度": 9, "段落数": 3,
    "去重段落数": 2, "低质量段落数": 0,
    "段落": [
        {"行号": 1, "是否重复": False, "是否跨文件重复": False, "md5": "a", "内容": "白日依山尽，"},
        {"行号": 2, "是否重复": True, "是否跨文件重复": False, "md5": "a", "内容": "白日依山尽，"},
        {"行号": 3, "是否重复": False, "是否跨文件重复": True, "md5": "b", "内容": "版权所有"},
        {"行号": 4, "是否重复": False, "是否跨文件重复": False, "md5": "c", "内容": "黄河入海流。"},
    ],
}  # fmt: skip
WUDAO = {
    "id": 5,
    "uniqueKey": "5a",
    "titleUkey": "5b",
    "dataType": "百科",
    "title": "登鹳雀楼",
    "content": "白日依山尽",
}
NEWS = {
    "news_id": "1",
    "keywords": "诗",
    "title": "登楼",
    "desc": "一首诗",
    "source": "报",
    "time": "2014",
    "content": "白日依山尽",
}
BAIKE = {"qid": "1", "category": "文学", "title": "谁写了登鹳雀楼？", "desc": "", "answer": "王之涣。"}
FORUM = {
    "qid": 1,
    "title": "谁写了？",
    "desc": "这首诗",
    "topic": "诗",
    "star": 3,
    "content": "王之涣。",
    "answer_id": 2,
    "answerer_tags": "",
}
WIKI = {
    "id": "13",
    "url": "https://zh.wikipedia.org/wiki?curid=13",
    "title": "数学",
    "text": "数学\n\n数学是研究数量的学科。",
}

EXTRACTED = """\
<doc id="13" url="https://zh.wikipedia.org/wiki?curid=13" title="数学">
数学

数学是研究数量的学科。

</doc>
<doc id="18" url="https://zh.wikipedia.org/wiki?curid=18" title="A &amp; B">
又一篇。
</doc>
"""
DUMP = """\
<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="zh">
  <siteinfo><sitename>Wikipedia</sitename></siteinfo>
  <page><title>数学</title><ns>0</ns><id>13</id>
    <revision><id>1</id><text bytes="9" xml:space="preserve">旧</text></revision>
    <revision><id>2</id><text bytes="99" xml:space="preserve">{{Infobox|名=数学}}
'''数学'''是研究[[数量]]、[[结构 (数学)|结构]]的[[学科]]。&lt;ref&gt;某书&lt;/ref&gt;
[[File:a.png|thumb|一张[[图]]]]
== 历史 ==
* 很久。
{| class="wikitable"
| 表
|}
[[Category:数学]]</text></revision></page>
  <page><title>数</title><ns>0</ns><redirect title="数学" /><revision><text>#重定向 [[数学]]</text></revision></page>
  <page><title>Talk:数学</title><ns>1</ns><revision><text>讨论</text></revision></page>
</mediawiki>
"""


def read(path: Path, format: str = "Auto") -> tuple[list[Any], Tally]:
    source = RawSource.model_validate({"uri": "pvc://data/raw", "format": format})
    files, _ = shares.files_of(0, source, path)
    tally, found = Tally(), list[Any]()
    for file in files:
        for item in reading.documents(file, source, tally):
            found.append((item.place, item.text) if isinstance(item, Raw) else item)
    return found, tally


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.mark.parametrize(
    ("format", "name", "content", "found"),
    [
        pytest.param("WikiExtractor", "AA/wiki_00", EXTRACTED.encode(),
                     [("line 1", "数学\n\n数学是研究数量的学科。"), ("line 7", "A & B\n又一篇。")], id="what WikiExtractor writes"),
        pytest.param("WikiExtractor", "AA/wiki_00", lines(WIKI), [("line 1", WIKI["text"])], id="the same as JSON"),
        pytest.param("WikiXML", "zhwiki.xml", DUMP.encode(), [("page 1", "数学\n数学是研究数量、结构的学科。\n\n 历史 \n 很久。")], id="a dump"),
        pytest.param("WikiXML", "zhwiki.xml.bz2", bz2.compress(DUMP.encode()),
                     [("page 1", "数学\n数学是研究数量、结构的学科。\n\n 历史 \n 很久。")], id="a dump as it is offered"),
        pytest.param("WuDao", "part-1.json", json.dumps([WUDAO, WUDAO], ensure_ascii=False).encode(),
                     [("row 1", "登鹳雀楼\n白日依山尽"), ("row 2", "登鹳雀楼\n白日依山尽")], id="arrays of WuDao"),
        pytest.param("MNBVC", "1.jsonl", lines(MNBVC), [("line 1", "白日依山尽，\n黄河入海流。")], id="MNBVC without what it flags"),
        pytest.param("MNBVC", "1.jsonl", lines(MNBVC | {"是否重复文件": True}), [("line 1", "")], id="a file that MNBVC flags"),
        pytest.param("CLUE", "news.json", lines(NEWS, NEWS), [("line 1", "登楼\n白日依山尽"), ("line 2", "登楼\n白日依山尽")], id="news of CLUE"),
        pytest.param("CLUE", "baike.json", lines(BAIKE, BAIKE), [("line 1", "谁写了登鹳雀楼？\n王之涣。"), ("line 2", "谁写了登鹳雀楼？\n王之涣。")], id="questions of CLUE"),
        pytest.param("CLUE", "web.jsonl", lines(FORUM), [("line 1", "谁写了？\n这首诗\n王之涣。")], id="a forum of CLUE"),
        pytest.param("CLUE", "wiki_00", lines(WIKI), [("line 1", WIKI["text"])], id="the encyclopedia of CLUE"),
        pytest.param("CLUE", "a.txt", "一句。\n二句。\n\n\n三句。\n".encode(), [("line 1", "一句。\n二句。"), ("line 5", "三句。")], id="documents between empty lines"),
        pytest.param("WuDao", "a.jsonl", lines({"text": "a"}),
                     [("line 1", "no row of WuDao, which has content dataType title or content title uniqueKey; it has 'text': set format to another")], id="another corpus"),
        pytest.param("MNBVC", "a.jsonl", lines({"段落": ["a"]}), [("line 1", "a paragraph of '段落' has no text '内容'")], id="paragraphs of another shape"),
    ],
)  # fmt: skip
def test_a_corpus_is_read_as_it_is_laid_out(tmp_path: Path, format: str, name: str, content: bytes, found: Any) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert read(tmp_path, format)[0] == found


@pytest.mark.parametrize(("row", "text"), [
    pytest.param(MNBVC, "白日依山尽，\n黄河入海流。", id="MNBVC"),
    pytest.param(WUDAO, "登鹳雀楼\n白日依山尽", id="WuDao"),
    pytest.param(NEWS, "登楼\n白日依山尽", id="CLUE"),
])  # fmt: skip
def test_rows_of_known_corpora_are_known_without_a_name(tmp_path: Path, row: Any, text: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(row))
    assert read(tmp_path)[0] == [("line 1", text)]


@pytest.mark.parametrize(("name", "pack"), [
    pytest.param("AA/wiki_00", bytes, id="as it is written"),
    pytest.param("AA/wiki_00.bz2", bz2.compress, id="packed, as it writes with --compress"),
    pytest.param("wiki.txt", bytes, id="renamed"),
])  # fmt: skip
def test_what_wikiextractor_writes_is_known_by_its_first_line(tmp_path: Path, name: str, pack: Any) -> None:
    """Without that a file of hundreds of articles is one document, tags and all."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pack(EXTRACTED.encode()))
    found, tally = read(tmp_path)
    assert found == [("line 1", "数学\n\n数学是研究数量的学科。"), ("line 7", "A & B\n又一篇。")]
    assert tally.problems["text files that begin with <doc were read as WikiExtractor's"] == 1


@pytest.mark.parametrize(
    "text", ["<doc id=1>\n一首诗\n</doc>\n", '见 <doc id="1" url="u" title="题">\n', "<document>\n一\n</document>\n"]
)
def test_another_text_with_tags_stays_a_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert read(tmp_path)[0] == [("part 1", text)]


@pytest.mark.parametrize("title", ['"怪人"奥尔', "A > B", 'A"B>C', 'x=" y="', ""])
def test_a_title_is_read_whatever_signs_are_in_it(tmp_path: Path, title: str) -> None:
    """WikiExtractor puts no sign of a title in other words."""
    text = f'<doc id="13" url="https://zh.wikipedia.org/wiki?curid=13" title="{title}">\n正文\n</doc>\n'
    (tmp_path / "wiki_00").write_text(text, encoding="utf-8")
    assert read(tmp_path, "WikiExtractor")[0] == [("line 1", f"{title}\n正文".lstrip("\n"))]


def test_what_mnbvc_flags_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(MNBVC, MNBVC))
    assert read(tmp_path)[1].problems[layouts.FLAGGED] == 4


def flagged(file: Any, paragraph: Any) -> dict[str, Any]:
    return {"是否重复文件": file, "段落": [{"是否重复": paragraph, "内容": "白日依山尽"}]}


@pytest.mark.parametrize(("row", "found"), [
    pytest.param(flagged("False", "False"), "白日依山尽", id="False as Python writes it, in a string"),
    pytest.param(flagged("false", 0), "白日依山尽", id="as JSON and as a number"),
    pytest.param(flagged(None, ""), "白日依山尽", id="as nothing"),
    pytest.param(flagged(False, "True"), "", id="a paragraph that is one"),
    pytest.param(flagged("是", False), "", id="a file that is one"),
    pytest.param(flagged(False, "maybe"), "'是否重复' is 'maybe': write true or false", id="what says neither"),
])  # fmt: skip
def test_a_flag_of_mnbvc_says_what_it_says_however_it_is_written(tmp_path: Path, row: Any, found: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(row))
    assert read(tmp_path)[0] == [("line 1", found)]


def epub(path: Path, chapters: dict[str, str], order: list[str]) -> None:
    container = '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile full-path="OEBPS/content.opf"/></rootfiles></container>'
    items = "".join(
        f'<item id="{name}" href="text/{name}.xhtml" media-type="application/xhtml+xml"/>' for name in chapters
    )
    spine = "".join(f'<itemref idref="{name}"/>' for name in order)
    package = (
        f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>'
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("META-INF/container.xml", container)
        archive.writestr("OEBPS/content.opf", package)
        for name, body in chapters.items():
            page = f'<?xml version="1.0" encoding="utf-8"?><html><head><title>题</title><style>p {{}}</style></head><body>{body}</body></html>'
            archive.writestr(f"OEBPS/text/{name}.xhtml", page)


def test_a_book_is_read_in_the_order_of_its_chapters(tmp_path: Path) -> None:
    chapters = {
        "two": "<h1>第二章</h1><p>黄河<b>入海</b>流。</p>",
        "one": "<h1>第一章</h1>\n<p>白日依山尽，</p><p>&nbsp;&amp;<br/>又一行<ruby>字<rt>zì</rt></ruby></p>",
    }
    epub(tmp_path / "book.epub", chapters, ["one", "two"])
    assert read(tmp_path)[0] == [("book", "第一章\n白日依山尽，\n\xa0&\n又一行字\n\n第二章\n黄河入海流。")]


@pytest.mark.parametrize(
    ("name", "format", "content", "message"),
    [
        pytest.param("a.epub", "Auto", b"PK\x03\x04 broken", "no EPUB that can be read", id="a broken book"),
        pytest.param("a.xml", "Auto", DUMP.encode()[:700], "no XML after page", id="a dump that is cut"),
        pytest.param("a.xml", "Auto", b'<?xml version="1.0" encoding="gb18030"?>' + DUMP.encode("gb18030"), "write it as UTF-8", id="a dump in GB 18030"),
        pytest.param("a.json", "Auto", b"[" * 100_000, "not usable JSON", id="JSON that is nested too deeply"),
        pytest.param("wiki_00", "WikiExtractor", EXTRACTED.encode()[:110], "the article does not end: the file is cut", id="an article that is cut"),
        pytest.param("a.txt", "EPUB", b"a", "copy the file again, or set format to what it is", id="a text that is named a book"),
        pytest.param("a.json", "WikiXML", b"[1]", "copy the file again, or set format to what it is", id="rows that are named a dump"),
        pytest.param("a.csv", "Parquet", b"text\na\n", "neither Parquet nor Arrow: set format to what it is", id="a table that is named Parquet"),
        pytest.param("wiki_00", "WikiExtractor", "一行字\n".encode(), "text outside of <doc", id="another text"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_told(tmp_path: Path, name: str, format: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path, format)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert message in str(caught.value)


def test_a_locked_book_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.epub"
    epub(path, {"one": "<p>春眠不觉晓</p>"}, ["one"])
    data = bytearray(path.read_bytes())
    for sign, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(sign)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(sign, at + 1)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.epub: no EPUB that can be read \(.*encrypted"):
        read(tmp_path)


def book_of(path: Path, chapter: bytes, item: str = "", spine: str = "", **files: bytes) -> Path:
    """A book of one chapter, ``c.xhtml``; ``item`` and ``spine`` are added to its package, and ``files`` beside it."""
    package = f'<package><manifest><item id="c" href="c.xhtml"/>{item}</manifest><spine>{spine}<itemref idref="c"/></spine></package>'
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", '<container><rootfile full-path="p.opf"/></container>')
        archive.writestr("p.opf", package)
        archive.writestr("c.xhtml", chapter)
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(("chapter", "seen"), [
    pytest.param("<head><title>题</title><body><p>正文。</p>", "正文。", id="a head that does not end, as HTML allows"),
    pytest.param("<p><ruby>漢<rt>hàn<rb>字<rt>zì</ruby>后文。</p>", "漢字后文。", id="readings that do not end, as HTML allows"),
    pytest.param("<p><ruby>漢<rt>hàn</p><p>第二段。</p>", "漢\n第二段。", id="a ruby that does not end"),
    pytest.param("<p>甲<svg><title>图</title><svg><text>一</text></svg><text>二</text></svg>乙</p>", "甲乙", id="a picture in a picture"),
    pytest.param("<table><tr><td>1</td><td>23</td></tr></table>", "1\t23", id="cells of a table"),
    pytest.param("<header>甲</header><center>乙</center><figcaption>丙</figcaption>丁", "甲\n乙\n丙\n丁", id="blocks of HTML 5 and of old"),
    pytest.param("<pre>白日\n依山</pre><p>黄河\n  入海</p><p>a\nb</p>", "白日\n依山\n黄河入海\na b", id="line ends of the file"),
    pytest.param("<p>甲<![CDATA[<乙>]]>丙</p>", "甲<乙>丙", id="text that XML does not look into"),
])  # fmt: skip
def test_of_a_chapter_a_reader_sees(tmp_path: Path, chapter: str, seen: str) -> None:
    assert markup.book(book_of(tmp_path / "a.epub", chapter.encode())) == seen


@pytest.mark.parametrize(("said", "encoding"), [
    pytest.param('<?xml version="1.0" encoding="gb2312"?>', "gbk", id="GB 2312 in name, GBK in truth"),
    pytest.param("<meta charset=gbk>", "gbk", id="said by HTML"),
    pytest.param('<?xml version="1.0" encoding="utf-16"?>', "utf-16", id="UTF-16"),
    pytest.param("", "gbk", id="not said"),
    pytest.param('<?xml version="1.0" encoding="utf-8"?>', "gbk", id="said wrongly"),
])  # fmt: skip
def test_a_chapter_in_another_encoding_is_read(tmp_path: Path, said: str, encoding: str) -> None:
    text = "这是朱镕基的一本书，写在很久以前。"
    path = book_of(tmp_path / "a.epub", f"{said}<p>{text}</p>".encode(encoding))
    assert markup.book(path) == text


ENCRYPTED = '<encryption><EncryptedData><CipherReference URI="{}"/></EncryptedData></encryption>'


def test_a_book_with_a_lock_of_its_shop_is_told_as_such(tmp_path: Path) -> None:
    lock = {"META-INF/encryption.xml": ENCRYPTED.format("c.xhtml").encode()}
    with pytest.raises(DataError, match=r"a\.epub: the book is locked \(c\.xhtml is encrypted, by DRM\): take a copy"):
        markup.book(book_of(tmp_path / "a.epub", bytes(range(128, 256)), **lock))
    fonts = {"META-INF/encryption.xml": ENCRYPTED.format("font.otf").encode()}
    assert markup.book(book_of(tmp_path / "b.epub", "<p>甲</p>".encode(), **fonts)) == "甲"


def test_pages_that_are_pictures_are_passed_over_and_a_page_that_is_missing_is_told(tmp_path: Path) -> None:
    picture = '<item id="p" href="p.jpg" media-type="image/jpeg"/>'
    path = book_of(
        tmp_path / "a.epub", "<p>甲</p>".encode(), picture, '<itemref idref="p"/>', **{"p.jpg": b"\xff\xd8\xff"}
    )
    assert markup.book(path) == "甲"
    with pytest.raises(DataError, match="its spine names p, which its manifest does not have"):
        markup.book(book_of(tmp_path / "b.epub", b"", "", '<itemref idref="p"/>'))


@pytest.mark.parametrize(("written", "seen"), [
    pytest.param("用-{zh-tw:電腦; zh-cn:计算机}-写", "用计算机写", id="a word for each region"),
    pytest.param("-{zh-hant:資訊;zh-hans:信息}-学", "信息学", id="a word for each script"),
    pytest.param("-{zh-tw:甲;zh-hk:乙}-", "甲", id="no word of the mainland"),
    pytest.param("-{于}-右任与-{R|於}-陵", "于右任与於陵", id="what must not be converted"),
    pytest.param("-{A|zh-cn:博客;zh-tw:部落格}-", "博客", id="a word that is shown, and holds for the page"),
    pytest.param("甲-{H|zh-cn:博客;zh-tw:部落格}--{T|zh-cn:题}--{-|zh-cn:x;zh-tw:y}-乙", "甲乙", id="what tells the converter something"),
    pytest.param("-{zh-hans|甲}-", "甲", id="a word in one script"),
    pytest.param("-{zh-cn:用-{zh-cn:甲;zh-tw:乙}-;zh-tw:丙}-", "用甲", id="one in another"),
    pytest.param("-{zh-cn:[[诗|词]];zh-tw:[[詩|詞]];}-人", "词人", id="links in it"),
    pytest.param("a-{b", "a-{b", id="what does not end"),
    pytest.param("前[[File:a.jpg|thumb|说明[http://a.b 某]文]]后", "前后", id="a picture whose caption has an address"),
    pytest.param("前[[档案:a.jpg|缩图|[[唐朝|唐]]的{{le|诗|poem}}]]后", "前后", id="a picture whose caption has links and templates"),
    pytest.param("前[[File:a.jpg|thumb后", "前[[File:a.jpg|thumb后", id="a picture that does not end"),
    pytest.param("前\n{| class=x\n| 甲\n|\n{| \n| 内\n|}\n| 乙\n|}\n后", "前\n\n后", id="a table in a table"),
    pytest.param("__NOTOC__\n前__无目录__", "前", id="switches"),
])  # fmt: skip
def test_of_an_article_a_reader_sees(written: str, seen: str) -> None:
    assert markup._without_markup(written) == seen


def test_pages_that_are_no_articles_are_counted(tmp_path: Path) -> None:
    old = "<page><title>数字</title><ns>0</ns><revision><text># 重定向 [[数学]]</text></revision></page>"
    (tmp_path / "a.xml").write_text(DUMP.replace("</mediawiki>", f"{old}</mediawiki>"), encoding="utf-8")
    found, tally = read(tmp_path)
    assert [place for place, _ in found] == ["page 1"]
    assert dict(tally.problems) == {
        "redirects were left out": 2,
        "pages of other name spaces than articles were left out": 1,
    }


def test_a_folder_of_all_of_them_becomes_a_corpus(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "m.jsonl").write_bytes(lines(MNBVC))
    (raw / "w.json").write_text(json.dumps([WUDAO], ensure_ascii=False), encoding="utf-8")
    (raw / "n.jsonl").write_bytes(lines(NEWS | {"content": "又一首诗"}))
    (raw / "zhwiki.xml").write_text(DUMP, encoding="utf-8")
    epub(raw / "b.epub", {"one": "<p>春眠不觉晓</p>"}, ["one"])
    made = run(tmp_path, sources=[{"uri": str(raw)}], onBadRow="Fail")
    assert {row["id"].partition(",")[0] for row in made.rows()} == {
        f"raw/{name}" for name in ("m.jsonl", "w.json", "n.jsonl", "zhwiki.xml", "b.epub")
    }


def test_a_dump_takes_no_more_memory_the_more_pages_it_has(tmp_path: Path) -> None:
    head, page = (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">',
        "<page><title>{}</title><ns>1</ns></page>",
    )
    path = tmp_path / "zhwiki.xml"
    article = "<page><title>山</title><ns>0</ns><revision><text>山水</text></revision></page>"
    talks = "".join(page.format(number) for number in range(4000))
    path.write_text(f"{head}{article}{talks}{article}{talks * 4}{article}</mediawiki>", encoding="utf-8")
    taken = []
    tracemalloc.start()
    try:
        for _ in markup.pages(path, Tally()):
            taken.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert len(taken) == 3
    assert taken[2] - taken[1] < 200_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.txt", b"", id="a text"),
        pytest.param("a.jsonl", b"", id="lines"),
        pytest.param("a.json", b"", id="JSON"),
        pytest.param("a.json", b"[]", id="an array of nothing"),
        pytest.param("a.csv", b"", id="a table"),
        pytest.param("a.csv", b"text,title\n", id="a table that is all header"),
    ],
)
def test_an_empty_file_is_told_of(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found, tally = read(tmp_path)
    assert found == []
    assert tally.problem_lines() == [f"1 empty files passed over (first: {tmp_path / name})"]
