"""What a model or a file said stays text in every report and card; what is Markdown is decided by a parser that is not ours."""

from __future__ import annotations

import html
import re

import pytest
from markdown_it import MarkdownIt

from workloads.system.markdown import Own, plain, table

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
SAID = [
    "[click](http://192.0.2.1/x)", "![p](http://192.0.2.1/p.png)", "<img src=x onerror=alert(1)>", "<https://evil.example>",
    "https://evil.example/x", "www.evil.example", "http://evil.example/a_b_c", "li@evil.example", "FTP://evil.example",
    "# not a heading", "> not a quote", "- not a list", "+ not one", "1. nor this", "2) nor that", "===", "---", "- - -", "2.5", "1.self_attn.q_proj", "a | b | c", "\\| a",
    "**bold** _soft_ ~~gone~~ `code`", "$x$", "[x]: http://evil.example", "&lt;b&gt; &#60;", "one\ntwo\n\nthree", "```mermaid\nx\n```",
    "eval_loss bits_per_byte", "\\*escaped\\*", "- [ ] task", "[^1]", "[0]", "[0](http://evil.example)", "[0]: http://evil.example", "[0][0]", "- [0]: x", "pvc://models/poet",
]  # fmt: skip


def shown(markdown: str) -> str:
    """What a reader sees of it. Fails where anything but paragraphs, tables and line breaks came of it."""
    page = READER.render(markdown)
    assert not re.search(r"<(?!/?(p|br|table|thead|tbody|tr|th|td)\b)", page), page
    return html.unescape(re.sub(r"<[^>]*>", "", page.replace("<br>", "\n"))).strip()


@pytest.mark.parametrize("said", SAID)
def test_what_was_said_is_shown_as_it_was_said(said: str) -> None:
    assert shown(plain(said)) == said
    assert shown(table(("name", "said"), [("x", said)])).endswith(said)
    assert not re.search(r"(?i)https?:|ftp:|www\.|\w@\w+\.", plain(said))  # which GitHub makes links of


def test_a_cell_ends_where_the_table_says() -> None:
    page = READER.render(table(("a", "b"), [("x|y\\", "\\|z")]))
    assert [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", page)] == ["x|y\\", "\\|z"]


def test_own_markdown_is_obeyed() -> None:
    assert "<td><strong>4.25</strong></td>" in READER.render(table(("a",), [(Own("**4.25**"),)]))
