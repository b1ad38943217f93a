"""The page of a report: one file, nothing loaded from anywhere, in Chinese and English, light and dark, for a phone too.

The page's policy (Content-Security-Policy) allows its own script by digest and nothing else, so that even text that slipped through
could run nothing. What is handed over here is markup: whoever makes it escapes what others wrote.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template


def render(title: str, body: str, footer: str) -> str:
    """The whole page. The title is text, the rest markup."""
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8")).substitute(
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        title=escape(title),
        body=body,
        footer=footer,
        script=script,
    )


def both(english: str, chinese: str) -> str:
    """A label in both languages, of which the page shows one. Markup is taken as it is."""
    return f'<span class="en">{english}</span><span class="zh" lang="zh">{chinese}</span>'


def table(head: Iterable[str], rows: Iterable[str]) -> str:
    """Scrolls by itself where the page is narrower. Cells of the head, and rows, are markup."""
    cells = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    return (
        f'<div class="wide" tabindex="0"><table><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def articles(heading: str, note: str, categories: Iterable[tuple[str, str]], entries: Iterable[str]) -> str:
    """A section of ``<article data-category=…>`` entries that are found by category and by words. Of a category its text and its label."""
    buttons = [f'<button type="button" data-category="">{both("All", "全部")}</button>']
    buttons += [f'<button type="button" data-category="{escape(name)}">{label}</button>' for name, label in categories]
    return (
        f"<section><h2>{heading} <span class=soft id=count></span></h2>{note}"
        f'<div class="tools"><div class="choices" role="group">{"".join(buttons)}</div>'
        f'<input id="search" type="search" placeholder="🔍" aria-label="Search / 搜索"></div>{"".join(entries)}</section>'
    )


def definitions(rows: Iterable[tuple[str, str]]) -> str:
    """Pairs of text, for a footer."""
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
