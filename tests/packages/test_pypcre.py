"""The stand-in has all that is asked of pypcre by the libraries that import it."""

from __future__ import annotations

import ast
import importlib.metadata
import operator
from collections.abc import Iterator
from pathlib import Path

import pcre
import pytest

ROOT = Path(__file__).parents[2]


def importers() -> list[Path]:
    """The sources, of every package that is installed, that import pcre."""
    # Not by the import system: a test module that was collected before may have hidden it.
    site = Path(importlib.metadata.distribution("gptqmodel").locate_file(""))
    mine = {Path(file.locate()) for file in importlib.metadata.files("pypcre")}
    users = [
        name
        for distribution in importlib.metadata.distributions()
        if any(wanted.lower().startswith("pypcre") for wanted in distribution.requires or ())
        for name in {file.parts[0] for file in distribution.files or () if file.suffix == ".py"}
    ]
    found = [path for name in users for path in (site / name).rglob("*.py") if path not in mine]
    return [path for path in found if "import pcre" in path.read_text(encoding="utf-8")]


FILES = importers()


def nodes() -> Iterator[tuple[str, ast.AST]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield path.name, node


def names() -> set[str]:
    """What is read of the module: `compile`, `Flag.MULTILINE`."""
    chains = [ast.unparse(node) for _, node in nodes() if isinstance(node, ast.Attribute)]
    return {chain.removeprefix("pcre.") for chain in chains if chain.startswith("pcre.") and "(" not in chain}


def patterns() -> list[tuple[str, str]]:
    """The patterns that are written down, with the file's name."""
    calls = [
        (name, node)
        for name, node in nodes()
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("pcre.")
    ]
    return [(name, call.args[0].value) for name, call in calls if call.args and isinstance(call.args[0], ast.Constant)]


def test_it_is_the_one_that_is_installed():
    assert importlib.metadata.version("pypcre") == "0.6.4+re"
    assert Path(pcre.__file__).read_bytes() == (ROOT / "packages" / "pypcre" / "pcre.py").read_bytes()


def test_gptqmodel_is_among_those_that_import_it():
    assert {path.parts[path.parts.index("site-packages") + 1] for path in FILES} >= {"gptqmodel", "defuser"}


def test_every_name_that_is_asked_for_is_there():
    wanted = names()
    assert {"compile", "escape", "Flag.MULTILINE"} <= wanted
    for name in wanted:
        operator.attrgetter(name)(pcre)


@pytest.mark.parametrize(("file", "pattern"), patterns(), ids=lambda value: value)
def test_every_pattern_is_one_of_re_too(file, pattern):
    pcre.compile(pattern)
