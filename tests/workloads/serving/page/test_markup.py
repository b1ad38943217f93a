"""What Gradio's chat window is given to show: static/markup.js, in the browser that runs it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from workloads.serving.page.theme import STATIC

Markup = Callable[..., Any]


@pytest.fixture(scope="module")
def markup(browser: Browser) -> Iterator[Markup]:
    """Call a function of the script by its name."""
    page = browser.new_page()
    page.evaluate("window.alpaca = {}")
    page.evaluate((STATIC / "markup.js").read_text(encoding="utf-8"))
    yield lambda name, text: page.evaluate("([name, text]) => alpaca.markup[name](text)", [name, text])
    page.close()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a < b & *c* `d` #e", id="marks"),
        pytest.param("  两格\n\n\n空行\t制表", id="spaces and line breaks"),
        pytest.param("<script>alert('x')</script>", id="markup"),
        pytest.param("&lt; &#60; &#0060;", id="entities, ours too"),
        pytest.param("😀 é 龘 \u202e", id="letters of every kind"),
    ],
)
def test_a_question_loses_nothing_and_has_nothing_that_markdown_reads(markup: Markup, text: str) -> None:
    shown = markup("question", text)
    assert re.sub(r"&#(\d{4});", lambda found: chr(int(found.group(1))), shown) == text
    assert not set(re.sub(r"&#\d{4};", "", shown)) & set("<>&*`#_[]!|~\\ \n\t")


def test_a_question_from_windows_has_plain_line_breaks(markup: Markup) -> None:
    assert markup("question", "一\r\n二") == "一&#0010;二"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("**粗** 1 < 2", "**粗** 1 < 2", id="Markdown and a lone sign stay"),
        pytest.param("<b>x</b>", "&#0060;b>x&#0060;/b>", id="tags are shown"),
        pytest.param("<!-- x -->", "&#0060;!-- x -->", id="comments too"),
        pytest.param("<https://a.org/?b=c>。", "<https://a.org/?b=c>。", id="an address in brackets is a link"),
        pytest.param("<https://a b> <http:x>", "&#0060;https://a b> &#0060;http:x>", id="one that is none is not"),
        pytest.param("![p](http://a/b)", "&#0033;[p](http://a/b)", id="a picture is a link"),
        pytest.param(
            "`<b>` <b>", "`<\u200bb>` &#0060;b>", id="code in a line is parted, where an entity would be shown"
        ),
        pytest.param("``a`<b>`` <b>", "``a`<\u200bb>`` &#0060;b>", id="with two ticks around one"),
        pytest.param("`open <b>", "`open &#0060;b>", id="a tick alone opens nothing"),
        pytest.param("```html\n<b>\n```\n<b>", "```html\n<\u200bb>\n```\n&#0060;b>", id="a block of code"),
        pytest.param("~~~\n<b>\n~~~\n<b>", "~~~\n<\u200bb>\n~~~\n&#0060;b>", id="with the other fence"),
        pytest.param("```\n<b>\n", "```\n<\u200bb>\n", id="a block that is still being written"),
        pytest.param(
            "$$a<b$$ \\(c<d\\)", "$$a&#0060;b$$ \\(c&#0060;d\\)", id="formulas, which Gradio reads as HTML first"
        ),
        pytest.param("$$1 < 2$$", "$$1 < 2$$", id="a lone sign in one"),
        pytest.param("```mermaid\n<img src=/x>\n```", "```text\n<\u200bimg src=/x>\n```", id="a diagram is code"),
        pytest.param("> - ~~~ Mermaid\n> <img>", "> - ~~~ text\n> &#0060;img>", id="also in a list in a quote"),
        pytest.param("\\`<img>\\`", "\\`&#0060;img>\\`", id="ticks that are text"),
        pytest.param("`a\n<img>`", "`a\n&#0060;img>`", id="a tick in another line"),
        pytest.param("| `a | <img>` |", "| `a | &#0060;img>` |", id="a tick in another cell"),
        pytest.param("``` a`b\n<img>\n```", "``` a`b\n&#0060;img>\n```", id="a fence with a tick in its line is none"),
        pytest.param("价格 $5 <b> $6", "价格 $5 &#0060;b> $6", id="money is no formula"),
        pytest.param("从$5涨到$6，HK$", "从$5涨到$6，HK$", id="nor is money without spaces"),
        pytest.param(
            "令 $x<y$，得 $\\alpha_1$。", "令 \\(x&#0060;y\\)，得 \\(\\alpha_1\\)。", id="a formula between dollars"
        ),
        pytest.param("`$x$` 和 $$y$$", "`$x$` 和 $$y$$", id="code, and one in a line of its own, stay"),
        pytest.param("|a|b|\n|:-|-:|\n|`x`|$y$|", "|a|b|\n|:-|-:|\n|`x`|\\(y\\)|", id="a table"),
    ],
)
def test_an_answer_is_markdown_without_html_and_pictures(markup: Markup, text: str, shown: str) -> None:
    assert markup("answer", text) == shown


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "- ```\n  a\n  ```\n\n<img src=/x>\n\n```\n", id="a fence in a list, whose end looks like a beginning"
        ),
        pytest.param("[a]:\n```\n<img src=/x>\n```", id="a fence that is the address of a link"),
        pytest.param("`" * 7 + "<img src=/x>" + "`" * 3, id="ticks that do not fit"),
    ],
)
def test_no_tag_is_left_anywhere_whatever_is_code(markup: Markup, text: str) -> None:
    assert "<i" not in markup("answer", text)


@pytest.mark.parametrize("piece", ["`", "`a", "$$a", "```\n", "<", "\\(", "` ``", "```x`\n"])
def test_a_long_answer_is_read_once_and_not_anew_from_every_sign(markup: Markup, piece: str) -> None:
    """With the square of its length this would take longer than any test may."""
    text = piece * (1_000_000 // len(piece))
    assert len(markup("answer", text)) >= len(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param("疑是", {"said": "疑是"}, id="no thought"),
        pytest.param("<think>\n想", {"thought": "想", "said": "", "isThinking": True}, id="one that goes on"),
        pytest.param("<think>\n想\n</think>\n\n疑是", {"thought": "想", "said": "疑是"}, id="one that has ended"),
        pytest.param("想\n</think>\n疑是", {"thought": "想", "said": "疑是"}, id="one that the template began"),
        pytest.param("写 `</think>` 即可", {"said": "写 `</think>` 即可"}, id="a word about it"),
    ],
)
def test_what_a_model_thought_is_told_from_what_it_said(markup: Markup, text: str, parts: dict[str, Any]) -> None:
    assert markup("parts", text) == parts
