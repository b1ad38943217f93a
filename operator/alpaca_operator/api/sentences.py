"""The sentence under a field or a member, read from the source of its class.

Read when it is asked for: help, messages and the generated files need it, and a run that only validates does not.
"""

import ast
import inspect
import sys
from functools import cache
from itertools import zip_longest


@cache
def sentences(owner: type) -> dict[str, str]:
    """What stands under each attribute in the body of ``owner`` and of its bases in the same package, by its Python name; "" where
    nothing does."""
    package = _package(owner)
    told: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        body = _bodies(base.__module__).get(base.__qualname__, []) if _package(base) == package else []
        for statement, after in zip_longest(body, body[1:]):
            if name := _assigned(statement):
                told[name] = _text(after)
    return told


def _package(owner: type) -> str:
    return owner.__module__.partition(".")[0]


@cache
def _bodies(module: str) -> dict[str, list[ast.stmt]]:
    """The bodies of a module's classes, by name; none of a module that is not Python."""
    try:
        source = inspect.getsource(sys.modules[module])
    except (OSError, TypeError):
        return {}
    return {node.name: node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


def _assigned(statement: ast.stmt) -> str | None:
    """The name that a statement gives a value or a type to."""
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return name
    return None


def _text(statement: ast.stmt | None) -> str:
    """The string that a statement is, in one line."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""
