"""Text for Gradio's chat window, which reads Markdown and lets harmless HTML through.

A question is shown as it was typed. In an answer Markdown works, while its HTML is shown instead of obeyed, its pictures are links, and
its diagrams are code: Gradio puts what stands in a diagram into the page as HTML, as it does with formulas. Whatever gets through all the
same, the Content-Security-Policy lets it load nothing; this is about showing what was written.

Characters are written as numeric entities of four digits, which nobody types: `page.js` undoes them in what is copied.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from functools import lru_cache

PLAIN = str.maketrans({mark: f"&#{ord(mark):04};" for mark in string.punctuation + " \t\n"})

OPENING = re.compile(r"^ {0,3}(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})[^\n]*$|(?P<escaped>\\`)|(?P<ticks>`+)", re.MULTILINE)
"""What code begins with. A tick behind a backslash begins none."""
DIAGRAM = re.compile(r"((?:(?<!`)`{3,}+|(?<!~)~{3,}+)[ \t]*+)mermaid\b", re.IGNORECASE)
LONGEST_CODE = 400
"""Characters of code within a line. Each tick looks so far for the one that closes it, and no further."""
TAG = re.compile(r"<(?=[A-Za-z/!?])")
PARTED = "<\u200b"
"""How a tag begins in code, where an entity would be shown as it is written: what is code to us may be none to Gradio, as in a list that
ends before its fence. `page.js` undoes it in what is copied."""
PICTURE = re.compile(r"!(?=\[)")
FORMULAS: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": r"\[", "right": r"\]", "display": True},
    {"left": r"\(", "right": r"\)", "display": False},
]
"""A single dollar is money more often than mathematics."""


def question(text: str) -> str:
    """Every character as it is; one paragraph, in which the style keeps spaces and line breaks."""
    return text.replace("\r\n", "\n").translate(PLAIN)


def answer(text: str) -> str:
    """Markdown without HTML, pictures and diagrams."""
    parts, end = [], 0
    text = DIAGRAM.sub(r"\1text", text)
    for start, stop in _code(text):
        parts += [_outside(text[end:start]), TAG.sub(PARTED, text[start:stop])]
        end = stop
    return "".join([*parts, _outside(text[end:])])


def _code(text: str) -> Iterator[tuple[int, int]]:
    """Where code is. In time that grows with the text."""
    position = 0
    while opening := OPENING.search(text, position):
        position = opening.end()
        if opening["escaped"]:
            continue
        if ticks := opening["ticks"]:
            closed = _ticks(len(ticks)).search(text, position, position + LONGEST_CODE)
            # In one line and one cell of a table: beyond, Markdown may see something else in it.
            if closed and not set("\n|") & set(text[position : closed.start()]):
                position = closed.end()
                yield opening.start(), position
            continue
        closing = rf"^ {{0,3}}{opening['fence'][0]}{{{len(opening['fence'])},}}[ \t]*$"
        if closed := re.compile(closing, re.MULTILINE).search(text, position):
            position = closed.end()
            yield opening.start(), position
        else:  # still being written
            yield opening.start(), len(text)
            return


@lru_cache(64)
def _ticks(count: int) -> re.Pattern[str]:
    return re.compile(rf"(?<!`)`{{{count}}}(?!`)")


def _outside(text: str) -> str:
    return PICTURE.sub("&#0033;", TAG.sub("&#0060;", text))
