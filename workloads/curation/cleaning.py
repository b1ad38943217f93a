"""One document through all rules, in their order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from alpaca_operator.api.dataset import DatasetSpec
from workloads.curation import rules

HALF_LETTERS = {
    full: full - 0xFEE0
    for first, last in ((0xFF10, 0xFF19), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A))
    for full in range(first, last + 1)
}
"""Full-width digits and Latin letters. Punctuation is not among them: in Chinese it is full-width for good."""
SCRIPTS = {"ToSimplified": "t2s", "ToTraditional": "s2t"}
"""OpenCC's names."""


class Rule(Protocol):
    """What may be done to a document."""

    @property
    def name(self) -> str: ...
    @property
    def sentence(self) -> str: ...
    @property
    def chinese(self) -> str: ...
    def apply(self, text: str) -> str | None:
        """What becomes of a text; None where the document is left out."""


class Width:
    """Letters and digits in half width."""

    name = "half-width-letters"
    sentence = "Full-width Latin letters and digits are written in half width."
    chinese = "全角的拉丁字母和数字写成半角。"

    def apply(self, text: str) -> str:
        return text.translate(HALF_LETTERS)


class Script:
    """Traditional characters to simplified ones, or the other way."""

    def __init__(self, wanted: str) -> None:
        self._configuration = SCRIPTS[wanted]
        self.name = "to-simplified" if wanted == "ToSimplified" else "to-traditional"
        self.sentence = (
            f"Characters are written {self.name.replace('-', ' ')} by OpenCC's dictionaries ({self._configuration})."
        )
        script = "简体" if wanted == "ToSimplified" else "繁体"
        self.chinese = f"按 OpenCC 的字典写成{script}（{self._configuration}）。"

    def apply(self, text: str) -> str:
        return str(_converter(self._configuration).convert(text))


EMPTY_LINES = re.compile(r"\n{3,}")


class Whitespace:
    """One space where there are spaces, and one empty line where there are several."""

    name = "whitespace"
    sentence = "Runs of spaces become one space, lines lose those at their ends, and one empty line of several stays."
    chinese = "连续的空格并为一个，去掉行首行尾的空格，连续的空行只留一行。"

    def apply(self, text: str) -> str:
        return EMPTY_LINES.sub("\n\n", "\n".join(" ".join(line.split()) for line in text.split("\n"))).strip("\n")


@cache
def _converter(configuration: str) -> Any:
    import opencc

    return opencc.OpenCC(configuration)


def all_rules(spec: DatasetSpec, inputs: Mapping[str, Any]) -> list[Rule]:
    """Everything that is done to a document. Raises SpecError for a rule that cannot be used."""
    clean = spec.clean
    found: list[Rule] = []
    if clean.normalize.width == "HalfLetters":
        found.append(Width())
    if clean.normalize.traditional != "Keep":
        found.append(Script(clean.normalize.traditional))
    if clean.normalize.whitespace == "Collapse":
        found.append(Whitespace())
    named = [rule for name in dict.fromkeys(clean.presets) for rule in rules.preset(name)]
    if clean.rules_file is not None:
        named += rules.load(Path(inputs["clean.rulesFile"].path), "spec.clean.rulesFile")
    named += rules.given(clean.rules_)
    named += rules.masks(spec.privacy.mask)
    rules.must_differ(named)
    return [*found, *named]
