"""What the Jinja of a template says of itself: whether it reads a clock or draws lots, and which roles it knows."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import loopcontrols

from workloads.data.chat_templates.rendering import without_generation
from workloads.errors import SpecError

DAY = datetime(2024, 7, 26, tzinfo=UTC)
"""What stands for today: the day that the templates of Llama-3.1 and 3.3 write, and those of 3.2 where there is no clock."""
DIRECTIVE = re.compile("%-?[A-Za-z]")
TOOL_ROLES = ("tool", "ipython", "function", "observation")
"""What templates call the role of a tool's result; the first is what all but a few do."""


def tool_role(source: str) -> str | None:
    """The role under which ``source`` writes what a tool gave; None where it names none, and would write such a message as any other."""
    names = _constants(source)
    return next((role for role in TOOL_ROLES if role in names), None)


def names_of(source: str) -> set[str]:
    """The variables that ``source`` reads or sets; none where its Jinja is broken, which rendering tells of."""
    try:
        return _names(_parsed(source))
    except TemplateSyntaxError:
        return set()


def pinned(source: str) -> str:
    """``source`` with the clock that it reads stopped at DAY, so that it writes the same text tomorrow. Raises SpecError where it draws lots.

    Broken Jinja is given back as it is: rendering tells what is wrong with it.
    """
    try:
        tree = _parsed(source)
    except TemplateSyntaxError:
        return source
    if any(found.name == "random" for found in tree.find_all(nodes.Filter)) or "lipsum" in _names(tree):
        raise SpecError(
            "template: it draws lots (random or lipsum), so that every run would train other text: take that out of the chat template"
        )
    if "strftime_now" not in _names(tree):
        return source
    directives = dict.fromkeys(DIRECTIVE.findall(source))
    spelled = "".join(f" | replace({each!r}, {DAY.strftime(each)!r})" for each in directives)
    line = "\n" if source.startswith("\n") else ""  # Jinja takes one away behind the block
    return f"{{%- macro strftime_now(format) -%}}{{{{- format{spelled} -}}}}{{%- endmacro %}}{line}{source}"


@lru_cache
def _parsed(source: str) -> nodes.Template:
    return Environment(extensions=[loopcontrols]).parse(without_generation(source))


def _names(tree: nodes.Template) -> set[str]:
    return {found.name for found in tree.find_all(nodes.Name)}


def _constants(source: str) -> set[object]:
    try:
        return {found.value for found in _parsed(source).find_all(nodes.Const)}
    except TemplateSyntaxError:
        return set()
