"""Documents in markup: what WikiExtractor writes, MediaWiki's own dumps, and books as EPUB."""

from __future__ import annotations

import html
import io
import posixpath
import re
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from workloads.curation import archives
from workloads.curation.layouts import with_title
from workloads.data.corpus import Tally
from workloads.data.encodings import BOMS, WIDER, encoding_of
from workloads.data.opening import ending, open_bytes
from workloads.errors import DataError
from workloads.system.describe import first_line, shown

OPENING = re.compile(r'<doc\s.*?\btitle="(?P<title>.*)"[^">]*>\s*')
"""How an article begins. WikiExtractor writes titles as they are, quotes and brackets in them too; the title is what comes last."""
CLOSING = "</doc>"
FIRST_LINE = 4096
"""Bytes that the first line of WikiExtractor's has at most: a title has 255."""


def is_extracted(path: Path) -> bool:
    """Whether a text file begins as those of WikiExtractor do, which have names without an ending."""
    with open_bytes(path) as stream:
        begins = stream.read(FIRST_LINE).decode("utf-8-sig", "replace").lstrip().partition("\n")[0]
    return begins.startswith("<doc id=") and OPENING.fullmatch(begins) is not None


def extracted(lines: Iterator[str], path: Path) -> Iterator[tuple[int, str]]:
    """The articles of a file that WikiExtractor wrote (``<doc id=… title=…>``), with the numbers of their first lines."""
    title, start, held = "", 0, list[str]()
    for number, line in enumerate(lines, start=1):
        opening = OPENING.fullmatch(line)
        if opening is not None and start:
            raise DataError(
                f"{shown(path)}, line {number}: an article begins before that of line {start} ends: copy the file again"
            )
        if opening is not None:
            title, start, held = html.unescape(opening["title"]), number, []
        elif line.strip() == CLOSING and start:
            yield start, with_title(title, "\n".join(held).strip())
            start = 0
        elif start:
            held.append(line)
        elif line.strip():
            raise DataError(
                f"{shown(path)}, line {number}: text outside of <doc …> and </doc>: this is no file of WikiExtractor"
            )
    if start:
        raise DataError(f"{shown(path)}, line {start}: the article does not end: the file is cut, copy it again")


DUMP = re.compile(rb"<mediawiki[\s>]")
XML_HEAD = 1 << 16
"""Bytes within which a dump of MediaWiki says that it is one: a comment may stand before."""


def is_mediawiki(path: Path) -> bool:
    """Whether an XML file is a dump of MediaWiki, by its content."""
    with open_bytes(path) as stream:
        return (
            DUMP.search(stream.read(XML_HEAD).replace(b"\0", b"")) is not None
        )  # UTF-16 has a zero beside each letter


ARTICLES = "0"
"""The name space of articles; others hold talk, users, templates."""
UNTOLD = re.compile(
    r"(?is)<(ref|gallery|timeline|math|chem|ce|score|graph|mapframe|imagemap|source|syntaxhighlight)\b[^>]*?(?:/>|>.*?</\1\s*>)"
)
MEDIA = re.compile(r"(?i)\[\[\s*(?:file|image|category|文件|檔案|档案|图像|圖像|图片|圖片|分类|分類)\s*:")
LINKS = re.compile(r"(\[\[)|\]\]")
TABLES = re.compile(r"(?m)^[: \t]*(\{\|)|^[ \t]*\|\}(?!\})")
"""Between which signs links and tables lie, others of their kind within them; the group is the sign that opens."""
SWITCHES = re.compile(
    r"__(?:(?:NO|FORCE)?TOC|NOEDITSECTION|NEWSECTIONLINK|NONEWSECTIONLINK|(?:NO)?INDEX|HIDDENCAT|EXPECTUNUSEDCATEGORY|NOGALLERY|STATICREDIRECT|DISAMBIG|NOTITLECONVERT|NOTC|"
    r"NOCONTENTCONVERT|NOCC|[无無]目[录錄]|[强強]制目[录錄]|目[录錄]|[无無]段落[编編][辑輯]|不[转轉][换換](?:[标標][题題]|[内內]容)|消歧[义義])__"
)
REDIRECT = re.compile(r"(?i)\s*[#＃]\s*(?:redirect|重定向)\s*[:：]?\s*\[\[")
"""How a page begins that only leads to another; dumps of before 2011 say it in no other way."""

WORDING = re.compile(r"-\{(?!\{)((?:(?!-\{|\}-).)*)\}-", re.DOTALL)
"""A place where the Chinese Wikipedia has a word for each region: ``-{zh-cn:计算机;zh-tw:電腦}-``, the innermost first."""
REGION = r"zh(?:-(?:hans|hant|cn|tw|hk|mo|sg|my))?"
WORDS = re.compile(rf"(?:^|;)\s*({REGION})\s*:(.*?)(?=;\s*{REGION}\s*:|;?\s*$)", re.DOTALL)
PREFERRED = ("zh-cn", "zh-hans", "zh", "zh-sg", "zh-my")
"""Of several wordings the first of these that there is, else the first; script and width are left to `clean.normalize`."""
FLAGS = re.compile(rf"\s*(?:[A-Z-]|{REGION})(?:\s*;\s*(?:[A-Z-]|{REGION}))*\s*")
UNSEEN = frozenset("HTDNEW-")
"""Flags of places that tell the converter something, and show nothing."""


def _worded(found: re.Match[str]) -> str:
    """What a reader in mainland China sees in such a place."""
    said, bar, content = found[1].partition("|")
    flags = {flag.strip() for flag in said.split(";")} if bar and FLAGS.fullmatch(said) else set[str]()
    if UNSEEN & flags:
        return ""
    content = content if flags else found[1]
    words: list[tuple[str, str]] = [] if "R" in flags else WORDS.findall(content)
    ranked = sorted(words, key=lambda word: PREFERRED.index(word[0]) if word[0] in PREFERRED else len(PREFERRED))
    return ranked[0][1].strip() if ranked else content.strip()


def _in_one_wording(text: str) -> str:
    while (after := WORDING.sub(_worded, text)) != text:
        text = after
    return text


def _without(text: str, signs: re.Pattern[str], begins: re.Pattern[str] | None = None) -> str:
    """``text`` without what lies between pairs of ``signs``, where it ``begins`` so; what is not closed stays."""
    opened: list[int] = []
    pairs: dict[int, int] = {}
    for sign in signs.finditer(text):
        if sign[1]:
            opened.append(sign.start())
        elif opened:
            pairs[opened.pop()] = sign.end()
    kept: list[str] = []
    at = 0
    for start, end in sorted(pairs.items()):
        if start >= at and (begins is None or begins.match(text, start)):
            kept.append(text[at:start])
            at = end
    return "".join([*kept, text[at:]])


def pages(path: Path, tally: Tally) -> Iterator[tuple[int, str]]:
    """The articles of a dump of MediaWiki with the numbers of their pages; markup taken off. Redirects and pages of other name spaces are counted
    in ``tally``."""
    number = 0
    try:
        with open_bytes(path) as stream:
            events = ElementTree.iterparse(stream, ("start", "end"))
            root = next(events)[1]
            if (called := _local(root.tag)) != "mediawiki":
                raise DataError(
                    f"{shown(path)}: XML that begins with <{called}>, no dump of MediaWiki, which begins with <mediawiki>: convert it to text or JSON lines"
                )
            for event, element in events:
                if event == "start" or _local(element.tag) != "page":
                    continue
                number += 1
                text = _inner(element, "text")
                if _inner(element, "ns") != ARTICLES:
                    tally.note(
                        "pages of other name spaces than articles were left out", f"{shown(path)}, page {number}"
                    )
                elif any(_local(each.tag) == "redirect" for each in element) or REDIRECT.match(text):
                    tally.note("redirects were left out", f"{shown(path)}, page {number}")
                else:
                    yield number, with_title(_inner(element, "title"), _without_markup(text))
                root.clear()  # and with it this page: a dump has millions
    except ElementTree.ParseError as error:
        raise DataError(
            f"{shown(path)}: no XML after page {number} ({first_line(error)}): {_again(path, '.xml')}"
        ) from error
    except ValueError as error:  # an encoding that expat does not know, as GB 18030
        raise DataError(
            f"{shown(path)}: XML that cannot be decoded ({first_line(error)}): write it as UTF-8"
        ) from error


def _again(path: Path, named: str) -> str:
    """What to do about a file that is not what it is read as: that it is, its name says, or the spec alone."""
    return "copy the file again" + ("" if ending(path) == named else ", or set format to what it is")


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _inner(element: ElementTree.Element, name: str) -> str:
    """The text of the last descendant of this name: of a page's revisions the newest."""
    return next((each.text or "" for each in reversed(list(element.iter())) if _local(each.tag) == name), "")


def _without_markup(text: str) -> str:
    import mwparserfromhell

    text = SWITCHES.sub("", UNTOLD.sub("", _in_one_wording(text)))
    text = _without(_without(text, TABLES), LINKS, MEDIA)
    parsed = mwparserfromhell.parse(text, skip_style_tags=True)
    plain = str(parsed.strip_code(normalize=True, collapse=True))
    return re.sub(r"'{2,}", "", plain).strip()


CONTAINER, ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "br", "caption", "center", "dd", "details", "dialog", "dir", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "hr", "legend", "li",
    "main", "menu", "nav", "ol", "p", "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul",
})  # fmt: skip
"""Elements that begin on a line of their own."""
CELLS = frozenset({"td", "th"})
"""Elements that stand beside each other in a line: a tab is between them, or 1 and 23 would be 123."""
READINGS = frozenset({"rt", "rp"})
"""How a character is read. HTML lets their ends be left out before another part of a ruby, and with its end."""
RUBY = frozenset({"ruby", "rb", "rtc", *READINGS})
SILENT = frozenset({"title", "script", "style", "svg", *READINGS})
"""Elements whose text is none of the book's."""
DECLARED = re.compile(rb"(?:encoding|charset)\s*=\s*[\"']?\s*([A-Za-z0-9_-]+)")
HEAD = 1024
"""Bytes within which a chapter says its encoding."""
WIDE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff\u201c\u201d\u2018\u2019\u2026\u2014"
BROKEN = re.compile(rf"(?<=[{WIDE}])[ \t]*\r[\r \t]*(?=[{WIDE}])")
"""Where the file of a chapter has a line end between two Chinese characters: none is shown there (CSS Text 3, section 4.1.3)."""


def book(path: Path) -> str:
    """The text of an EPUB, its chapters in the order in which they are read. Raises DataError for a file that is none, or that is locked."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = ElementTree.fromstring(archive.read(CONTAINER))
            package = next(each.attrib["full-path"] for each in root.iter() if _local(each.tag) == "rootfile")
            locked = _locked(archive)
            return "\n\n".join(
                filter(None, (_chapter(path, archive, name, locked) for name in _spine(archive, package)))
            )
    except (ElementTree.ParseError, KeyError, StopIteration, *archives.DAMAGES) as error:
        raise DataError(
            f"{shown(path)}: no EPUB that can be read ({first_line(error)}): {_again(path, '.epub')}"
        ) from error


def _locked(archive: zipfile.ZipFile) -> set[str]:
    """The names of files that cannot be read without a key of the shop's. Fonts are often among them, of books that can be read."""
    if ENCRYPTION not in archive.namelist():
        return set()
    root = ElementTree.fromstring(archive.read(ENCRYPTION))
    return {unquote(each.attrib.get("URI", "")) for each in root.iter() if _local(each.tag) == "CipherReference"}


def _spine(archive: zipfile.ZipFile, package: str) -> Iterator[str]:
    """The names of the chapters' files; pictures that are pages of their own are none."""
    root = ElementTree.fromstring(archive.read(package))
    items = {each.attrib["id"]: each.attrib for each in root.iter() if _local(each.tag) == "item"}
    for each in root.iter():
        if _local(each.tag) == "itemref" and each.attrib.get("linear", "yes") != "no":
            if (item := items.get(each.attrib["idref"])) is None:
                raise KeyError(f"its spine names {each.attrib['idref']}, which its manifest does not have")
            if not item.get("media-type", "").startswith("image/"):
                name = unquote(item["href"].partition("#")[0])
                yield posixpath.normpath(posixpath.join(posixpath.dirname(package), name))


def _chapter(path: Path, archive: zipfile.ZipFile, name: str, locked: set[str]) -> str:
    if name in locked:
        raise DataError(
            f"{shown(path)}: the book is locked ({name} is encrypted, by DRM): take a copy that is not, or remove it"
        )
    reader = _Reader()
    reader.feed(_decoded(path, archive.read(name), name))
    reader.close()
    text = BROKEN.sub("", "".join(reader.parts)).replace("\r", " ")
    return "\n".join(stripped for line in text.split("\n") if (stripped := line.strip("\n\t ")))


def _decoded(path: Path, content: bytes, name: str) -> str:
    """A chapter as text: by its byte order mark, by what it says itself, or told from it. Raises DataError for what is none."""
    marked = next((encoding for mark, encoding in BOMS if content.startswith(mark)), None)
    said = DECLARED.search(content[:HEAD])
    encoding = marked or (said[1].decode().lower() if said else "utf-8")
    try:
        return content.decode(WIDER.get(encoding, encoding))
    except (UnicodeDecodeError, LookupError):
        remedy = f"{name} in it is not {encoding}: save it as UTF-8, or remove the book"
    found = encoding_of(path, lambda _: io.BytesIO(content), remedy)
    try:
        return content.decode(found)
    except UnicodeDecodeError as error:
        raise DataError(f"{shown(path)}: {remedy}") from error


class _Reader(HTMLParser):
    """Text with a line for each block; ``\\r`` stands where the file has a line end that means nothing."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent: list[str] = []
        self._as_written = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._end_readings(tag, RUBY)
        if tag in SILENT:
            self._silent.append(tag)
        self._as_written += tag == "pre"
        self._begin(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._begin(tag)

    def handle_endtag(self, tag: str) -> None:
        self._end_readings(tag, frozenset({"ruby"}))
        if tag in self._silent:
            del self._silent[len(self._silent) - 1 - self._silent[::-1].index(tag) :]
        self._as_written -= tag == "pre" and self._as_written > 0
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            data = data.replace("\r\n", "\n")
            self.parts.append(data if self._as_written else data.replace("\n", "\r"))

    def unknown_decl(self, data: str) -> None:
        self.handle_data(data.removeprefix("CDATA["))

    def _begin(self, tag: str) -> None:
        if tag in BLOCKS:
            self.parts.append("\n")
        elif tag in CELLS:
            self.parts.append("\t")

    def _end_readings(self, tag: str, others: frozenset[str]) -> None:
        """A reading whose end was left out ends here: what follows would be lost otherwise, to the end of the chapter."""
        while self._silent and self._silent[-1] in READINGS and (tag in others or tag in BLOCKS):
            self._silent.pop()
