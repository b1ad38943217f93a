"""Stands in for pypcre, bindings of PCRE2 that GPTQModel and Defuser match names with.

PyPI has pypcre as source alone: it wants a C compiler, Python's headers and, where PCRE2's are not installed, its repository. What those
two use of it, `re` has under the same names, and every pattern of theirs is one of `re`'s too (tests/packages/test_pypcre.py). In an
environment of one's own, without uv.lock, pip takes the original.
"""

from re import (
    Match,
    Pattern,
    RegexFlag,
    compile,
    error,
    escape,
    findall,
    finditer,
    fullmatch,
    match,
    search,
    split,
    sub,
    subn,
)

PcreError = error


class Flag:
    """PCRE2's names for flags."""

    CASELESS = RegexFlag.IGNORECASE
    DOTALL = RegexFlag.DOTALL
    EXTENDED = RegexFlag.VERBOSE
    MULTILINE = RegexFlag.MULTILINE


__all__ = [
    "Flag",
    "Match",
    "Pattern",
    "PcreError",
    "compile",
    "error",
    "escape",
    "findall",
    "finditer",
    "fullmatch",
    "match",
    "search",
    "split",
    "sub",
    "subn",
]
