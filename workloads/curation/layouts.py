"""Rows as the known corpora have them: by which fields each is known, and what of it is the text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from workloads.data.files import Unusable

Row = dict[str, Any]
Text = str | Unusable
Note = Callable[[str, int], None]
"""Hears of what was left out of a row: what, and how often."""

FLAGGED = "paragraphs that MNBVC flags as duplicates were left out"


@dataclass(frozen=True)
class Layout:
    """The rows of a corpus."""

    name: str
    known_by: frozenset[str]
    """Fields that its rows have, and no other corpus' rows have all of."""
    text: Callable[[Row, Note], Text]


def with_title(title: str, text: str) -> str:
    """A title is the first line, unless it is that already."""
    title = title.strip()
    return text if not title or text.lstrip().partition("\n")[0].strip() == title else f"{title}\n{text}"


def titled(*fields: str) -> Callable[[Row, Note], Text]:
    """The title, then these fields, those that are empty or repeat what stands there already left out."""

    def text(row: Row, note: Note) -> Text:
        parts: list[str] = []
        for field in fields:
            part = row.get(field) or ""
            if not isinstance(part, str):
                return Unusable(f"{field!r} is a {type(part).__name__}, not text")
            if part.strip() and not any(part.strip() in other for other in parts):
                parts.append(part)
        title = row.get("title") or ""
        if not isinstance(title, str):
            return Unusable(f"'title' is a {type(title).__name__}, not text")
        return with_title(title, "\n".join(parts))

    return text


def _mnbvc(row: Row, note: Note) -> Text:
    """Its paragraphs, but for those that it says are duplicates; nothing of a file that it says is one."""
    paragraphs = row["段落"]
    if not isinstance(paragraphs, list):
        return Unusable(f"'段落' is a {type(paragraphs).__name__}, not a list of paragraphs")
    kept: list[str] = []
    flagged = 0
    for paragraph in paragraphs:
        if not isinstance(paragraph, dict) or not isinstance(paragraph.get("内容"), str):
            return Unusable("a paragraph of '段落' has no text '内容'")
        flags = [_flag(holder, name) for holder, name in ((row, FILE_FLAG), *((paragraph, name) for name in FLAGS))]
        if unusable := next((flag for flag in flags if isinstance(flag, Unusable)), None):
            return unusable
        if any(flags):
            flagged += 1
        else:
            kept.append(paragraph["内容"])
    if flagged:
        note(FLAGGED, flagged)
    return "\n".join(kept)


FILE_FLAG, FLAGS = "是否重复文件", ("是否重复", "是否跨文件重复")
"""Of a file, and of a paragraph."""
SAYS = {"true": True, "1": True, "是": True, "false": False, "0": False, "否": False, "": False, "none": False}
"""What a flag says, however whoever wrote the row wrote it: ``str(False)``, which is true to Python, is false."""


def _flag(holder: Row, name: str) -> bool | Unusable:
    """Whether a flag is set; one that is not there is not."""
    says = SAYS.get(str(holder.get(name)).strip().lower())
    return Unusable(f"{name!r} is {holder.get(name)!r}: write true or false") if says is None else says


LAYOUTS = (
    Layout("MNBVC", frozenset({"段落"}), _mnbvc),
    Layout("WuDao", frozenset({"title", "content", "dataType"}), titled("content")),
    Layout("WuDao", frozenset({"title", "content", "uniqueKey"}), titled("content")),
    Layout("CLUE", frozenset({"news_id", "title", "content"}), titled("content")),
    Layout("CLUE", frozenset({"qid", "title", "desc", "answer"}), titled("desc", "answer")),
    Layout("CLUE", frozenset({"qid", "title", "desc", "content"}), titled("desc", "content")),
    Layout("CLUE", frozenset({"id", "url", "title", "text"}), titled("text")),
    Layout("WikiExtractor", frozenset({"id", "url", "title", "text"}), titled("text")),
)
"""In the order in which they are looked for."""


def layout_of(row: Row, wanted: str | None) -> Layout | None:
    """The layout that a row has: the ``wanted`` one where it fits, any where none is wanted."""
    return next((one for one in LAYOUTS if wanted in (None, one.name) and one.known_by <= row.keys()), None)


def fields_of(name: str) -> str:
    """By which fields rows of a layout are known, in words."""
    return " or ".join(" ".join(sorted(one.known_by)) for one in LAYOUTS if one.name == name)


def paragraphs_apart(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    """Documents between empty lines, as CLUECorpus2020 has them, with the numbers of their first lines."""
    first, held = 1, list[str]()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            first = first if held else number
            held.append(line)
        elif held:
            yield first, "\n".join(held)
            held = []
    if held:
        yield first, "\n".join(held)
