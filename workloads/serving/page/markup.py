"""Text for Gradio's chat window, which reads Markdown and lets harmless HTML through.

A question is shown as it was typed. In an answer Markdown works, while its HTML is shown instead of obeyed, and its pictures are
links: a picture would be fetched from wherever the text says. Scripts are kept out by Gradio's sanitiser and the
Content-Security-Policy in any case; this is about showing what was written.

Characters are written as numeric entities of four digits, which nobody types: `page.js` undoes them in what is copied.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

PLAIN = str.maketrans({mark: f"&#{ord(mark):04};" for mark in string.punctuation + " \t\n"})

OPENING = re.compile(r"^ {0,3}(?P<fence>`{3,}|~{3,})[^\n]*$|(?P<ticks>`+)|(?P<formula>\$\$|\\\[|\\\()", re.MULTILINE)
"""What code and formulas begin with; nothing is changed in them."""
CLOSING = {"$$": r"\$\$", r"\[": r"\\\]", r"\(": r"\\\)"}
TAG = re.compile(r"<(?=[A-Za-z/!?])")
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
    """Markdown without HTML and pictures."""
    parts, end = [], 0
    for start, stop in _code(text):
        parts += [_outside(text[end:start]), text[start:stop]]
        end = stop
    return "".join([*parts, _outside(text[end:])])


def _code(text: str) -> Iterator[tuple[int, int]]:
    """Where code and formulas are. In time that grows with the text: what nothing closes is not looked for again."""
    unclosed, position = set(), 0
    while opening := OPENING.search(text, position):
        position = opening.end()
        closing = _closing(opening)
        if closing in unclosed:
            continue
        if closed := re.compile(closing, re.MULTILINE).search(text, position):
            position = closed.end()
            yield opening.start(), position
        elif opening["fence"]:  # still being written
            yield opening.start(), len(text)
            return
        else:
            unclosed.add(closing)


def _closing(opening: re.Match[str]) -> str:
    """An expression for the end of what begins here."""
    if fence := opening["fence"]:
        return rf"^ {{0,3}}{fence[0]}{{{len(fence)},}}[ \t]*$"
    if ticks := opening["ticks"]:
        return rf"(?<!`)`{{{len(ticks)}}}(?!`)"
    return CLOSING[opening["formula"]]


def _outside(text: str) -> str:
    return PICTURE.sub("&#0033;", TAG.sub("&#0060;", text))
