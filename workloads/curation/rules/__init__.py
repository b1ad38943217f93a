"""Rules of cleaning as files: each with its sentence and examples, which a test and every run try."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html.entities import html5
from pathlib import Path
from typing import Any

from alpaca_operator.api.dataset import CleaningRule, Preset
from workloads.errors import SpecError, WorkloadError
from workloads.system.describe import first_line, shown

FOLDER = Path(__file__).parent
KEYS = frozenset({"name", "sentence", "chinese", "pattern", "action", "replacement", "examples"})
ACTIONS = ("Replace", "Unescape", "DropLine", "DropDocument")


@dataclass(frozen=True)
class Rule:
    """A regular expression, and what is done to what it finds."""

    name: str
    pattern: str
    action: str = "Replace"
    replacement: str = ""
    sentence: str = ""
    chinese: str = ""
    """The sentence in Chinese, for the page of the report."""
    examples: tuple[tuple[str, str | None], ...] = ()
    """What it makes of what; None where the document is left out."""

    @cached_property
    def found(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.MULTILINE)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "found"}

    def apply(self, text: str) -> str | None:
        """What becomes of a text; the very same object where nothing was found, None where the document is left out."""
        if self.found.search(text) is None:
            return text
        if self.action == "DropDocument":
            return None
        if self.action == "DropLine":
            return "\n".join(line for line in text.split("\n") if self.found.search(line) is None)
        return self.found.sub(_unescaped if self.action == "Unescape" else self.replacement, text)

    def broken_example(self) -> str | None:
        """Of its examples the first that comes out otherwise, in words."""
        for before, after in self.examples:
            made = self.apply(before)
            if made != after:
                return f"{before!r} becomes {made!r} instead of {after!r}"
        return None


def _unescaped(match: re.Match[str]) -> str:
    """What HTML shows for an entity, with a plain space for spaces of every width, and nothing for what has none; as it stands where it is no entity.
    `html.unescape` alone takes `&copyright;` for ©."""
    entity = match[0]
    meant = html.unescape(entity) if entity.startswith("&#") else html5.get(entity.removeprefix("&"), entity)
    if len(meant) != 1:
        return meant
    category = unicodedata.category(meant)
    if category == "Zs":
        return " "
    return "" if category in ("Cc", "Cf") and meant not in "\t\n" else meant


def preset(name: Preset) -> list[Rule]:
    """The rules of a preset."""
    return load(FOLDER / f"{name.lower()}.yaml", "the preset")


def masks(kinds: Iterable[str]) -> list[Rule]:
    """The rules that mask these kinds of personal data, in the order of their file: an identity card holds what looks like a telephone."""
    wanted = set(kinds)
    return [rule for rule in load(FOLDER / "privacy.yaml", "the masks") if rule.name in wanted]


def given(rules: Sequence[CleaningRule]) -> list[Rule]:
    """Those that a spec holds. Raises SpecError for an expression that is none."""
    return [
        _checked(Rule(rule.name, rule.pattern, rule.action, rule.replacement or ""), f"clean.rules[{index}].pattern")
        for index, rule in enumerate(rules)
    ]


def load(path: Path, field: str) -> list[Rule]:
    """The rules of a file. Raises SpecError, with the entry, for what is no rule and for an example that comes out otherwise."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        entries = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{field} {shown(path)}: no YAML ({first_line(error)}): mend it") from error
    if not isinstance(entries, list) or not entries:
        raise SpecError(f"{field} {shown(path)}: holds no list of rules: write - name: …, pattern: … for each")
    return [_rule(entry, f"{field} {shown(path)}, rule {number}") for number, entry in enumerate(entries, start=1)]


def must_differ(rules: Sequence[Rule]) -> None:
    """Counts go by names. Raises SpecError for one that stands twice."""
    names = [rule.name for rule in rules]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SpecError(f"clean: two rules are called {twice}: rename one of them")


def _rule(entry: Any, where: str) -> Rule:
    if not isinstance(entry, Mapping):
        raise SpecError(f"{where}: is {entry!r}, and a rule has name and pattern: write it as a mapping")
    if unknown := sorted(set(map(str, entry)) - KEYS):
        raise SpecError(f"{where}: {unknown[0]} is no field of a rule: it has {', '.join(sorted(KEYS))}")
    for key in ("name", "pattern"):
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise SpecError(f"{where}: has no {key}, or one that is no text: give it one")
    action = entry.get("action", "Replace")
    if action not in ACTIONS:
        raise SpecError(f"{where}: action is {action!r}: give one of {', '.join(ACTIONS)}")
    if "replacement" in entry and (action != "Replace" or not isinstance(entry["replacement"], str)):
        raise SpecError(f"{where}: replacement is a text, and only read with action Replace: mend or remove it")
    rule = Rule(
        name=entry["name"],
        pattern=entry["pattern"],
        action=action,
        replacement=entry.get("replacement", ""),
        sentence=str(entry.get("sentence", "")),
        chinese=str(entry.get("chinese", "")),
        examples=tuple(_example(one, where) for one in entry.get("examples", ())),
    )
    return _checked(rule, where)


def _example(entry: Any, where: str) -> tuple[str, str | None]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("before"), str) or "after" not in entry:
        raise SpecError(f"{where}: an example has before and after (null where the document is left out): mend it")
    return entry["before"], entry["after"]


def _checked(rule: Rule, where: str) -> Rule:
    """The rule, whose expression can be read and whose examples come out."""
    try:
        _try_replacement(rule)
        broken = rule.broken_example()
    except (re.error, IndexError) as error:
        raise SpecError(f"{where}: {rule.pattern!r} cannot be used ({first_line(error)}): mend it") from error
    if broken is not None:
        raise (
            WorkloadError(f"{where}: {broken}")
            if where.startswith("the ")
            else SpecError(f"{where}: {broken}: mend it")
        )
    return rule


def _try_replacement(rule: Rule) -> None:
    """Raises re.error or IndexError for a replacement that speaks of a group which the pattern does not have."""
    names = {number: name for name, number in rule.found.groupindex.items()}
    groups = (f"(?P<{names[number]}>)" if number in names else "()" for number in range(1, rule.found.groups + 1))
    re.sub("".join(groups), rule.replacement, "")
