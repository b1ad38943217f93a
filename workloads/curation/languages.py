"""In which language a document is, told by lingua: its models are in its wheel, its licence is Apache 2.0, and it is much faster than those written
in Python."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

from workloads.errors import SpecError

LOOKED_AT = 1000
"""Characters from the middle of a document by which its language is told: titles, navigation and notes, in whatever language, stand at its ends."""


def must_be_known(codes: Collection[str]) -> None:
    """Raises SpecError for a code of no language that can be told."""
    if not codes:
        return
    from lingua import Language

    known = {language.iso_code_639_1.name.lower() for language in Language.all()}
    unknown = [code for code in codes if code not in known]
    if unknown:
        raise SpecError(
            f"filters.language: {', '.join(unknown)} is no language that can be told: known are {', '.join(sorted(known))}"
        )


def language_of(text: str) -> str | None:
    """The code of a language in ISO 639-1; None where there are no words of any."""
    start = max(0, (len(text) - LOOKED_AT) // 2)
    found = _detector().detect_language_of(text[start : start + LOOKED_AT])
    return None if found is None else str(found.iso_code_639_1.name.lower())


@cache
def _detector() -> Any:
    """Its models of runs of three characters alone: those of one to five, for single words, take a gigabyte."""
    from lingua import LanguageDetectorBuilder

    return LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()
