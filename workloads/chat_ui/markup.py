"""Text for Gradio's chat window, which reads Markdown and lets harmless HTML through.

A question is shown as it was typed. In an answer Markdown works, while its HTML is shown instead of obeyed, and its pictures are
links: a picture would be fetched from wherever the text says. Scripts are kept out by Gradio's sanitiser and the
Content-Security-Policy in any case; this is about showing what was written.

Characters are written as numeric entities of four digits, which nobody types: `page.js` undoes them in what is copied.
"""

from __future__ import annotations

import re
import string

PLAIN = str.maketrans({mark: f"&#{ord(mark):04};" for mark in string.punctuation + " \t\n"})

CODE = re.compile(
    r"""
    ^[ ]{0,3}(?P<fence>`{3,}|~{3,})[^\n]*\n(?:.*?^[ ]{0,3}(?P=fence)[`~]*[ \t]*$|.*\Z)   # a fenced block, closed or still open
    | (?P<ticks>`+)(?!`)(?:.+?)(?<!`)(?P=ticks)(?!`)                                # code in a line
    | \$\$.+?\$\$ | \\\[.+?\\\] | \\\(.+?\\\)                                        # a formula
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
TAG = re.compile(r"<(?=[A-Za-z/!?])")
PICTURE = re.compile(r"!(?=\[)")
FORMULAS = [
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
    for code in CODE.finditer(text):
        parts += [_outside(text[end : code.start()]), code.group()]
        end = code.end()
    return "".join([*parts, _outside(text[end:])])


def _outside(text: str) -> str:
    return PICTURE.sub("&#0033;", TAG.sub("&#0060;", text))
