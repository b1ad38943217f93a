"""The command line of every workload, made from its model: ``python -m workloads.<noun> [FILE] [--name NAME] [--field value]…``."""

from __future__ import annotations

import difflib
import json
import textwrap
from typing import Any

from alpaca_operator.api import Resource
from alpaca_operator.api.resource import JobSpec
from workloads.errors import SpecError
from workloads.manifest import fields, spec

SWITCH = {"true": True, "false": False}


def parse(kind: type[Resource], arguments: list[str]) -> tuple[str | None, str | None, list[tuple[str, Any]]]:
    """FILE, the name and the overrides. Raises SpecError for flags that no field has."""
    file: str | None = None
    name: str | None = None
    overrides: list[tuple[str, Any]] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            if argument.startswith("-") and argument != "-":
                raise SpecError(f"{argument}: flags start with -- (--help lists all)")
            if file is not None:
                raise SpecError(f"{argument!r} and {file!r}: give one FILE; flags start with --")
            file = argument
            continue
        flag, has_value, value = argument.removeprefix("--").partition("=")
        field = None if flag == "name" else _field(kind, flag)
        if not has_value:
            if field is not None and field.is_switch and not (rest and rest[0] in SWITCH):
                value = "true"
            elif not rest:
                wanted = f"{field.wanted}" if field else "the name of a document"
                raise SpecError(f"--{flag} needs a value: {wanted}")
            else:
                value = rest.pop(0)
        if field is None:
            name = value
        else:
            overrides.append((flag, spec.parse_value(value, field, flag)))
    return file, name, overrides


def _field(kind: type[Resource], flag: str) -> fields.Field:
    path = tuple(fields.steps(flag))
    field = fields.find(kind, ("spec", *path))
    if field is None or fields.dotted(path) != flag:
        raise SpecError(f"--{flag}: no such field{_hint(kind, flag)} (--help lists all)")
    return field


def _hint(kind: type[Resource], flag: str) -> str:
    flags = [".".join(path) for path, _ in fields.walk(_spec(kind))]
    last = flag.rpartition(".")[2]
    homes = [".".join(path) for path in fields.homes(kind, last)]
    close = difflib.get_close_matches(flag, flags, n=1)
    best = (homes if "." not in flag else []) + close + homes
    return f": did you mean --{best[0]}?" if best else ""


def help_text(kind: type[Resource], width: int, module: str | None = None) -> str:
    """Every field with its sentence, default and bounds."""
    lines = [
        f"usage: python -m workloads.{module or kind.workload} [FILE] [--name NAME] [--field value]...",
        "",
        *textwrap.wrap(" ".join((kind.__doc__ or "").split()), width),
        "",
        *textwrap.wrap(
            f"FILE is the manifest that kubectl apply takes (YAML or JSON, several documents; - is standard input): the {kind.__name__} in it "
            "is run. Any field of its spec can be given or replaced by a flag, with or without a FILE. Values are YAML: 1e-4, true, "
            "'[{uri: a.csv}]'; elements of lists are reached as --dataset.train[0].uri.",
            width,
        ),
        "",
        "  --name NAME",
        "      The document to run, where FILE holds several; without FILE, the name of the job.",
    ]
    for path, field in _ordered(kind):
        if field.model and not field.is_list:
            lines += ["", f"{'.'.join(path)}:", *_wrapped(field.sentence, width, 2)]
        else:
            needed = "" if len(path) == 1 else f" with {'.'.join(path[:-1])}"
            lines += [f"  --{'.'.join(path)} {field.placeholder}", *_wrapped(_description(field, needed), width, 6)]
    return "\n".join(lines) + "\n"


def _ordered(kind: type[Resource]) -> list[tuple[tuple[str, ...], fields.Field]]:
    """Every field: what stands alone before what has parts, and what only this kind has before what every job has."""
    shared = {name for name, _ in fields.of(JobSpec)}
    walked = list(fields.walk(_spec(kind)))
    parts = {name for name, field in fields.of(_spec(kind)) if field.model and not field.is_list}
    return sorted(walked, key=lambda entry: (entry[0][0] in parts, entry[0][0] in shared))


def _description(field: fields.Field, needed: str) -> str:
    facts = [field.limits] if field.limits else []
    if field.is_required:
        facts.append(f"required{needed}")
    elif field.default not in (None, [], {}, ""):
        facts.append(f"default {_as_text(field.default)}")
    return field.sentence + (f" ({', '.join(facts)})" if facts else "")


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _wrapped(text: str, width: int, indent: int) -> list[str]:
    # A word with a hyphen stays on one line: `half-` and `written` on two are found by no search, and copied wrong.
    margin = " " * indent
    return textwrap.wrap(text, max(40, width), initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False)


def _spec(kind: type[Resource]) -> Any:
    return kind.model_fields["spec"].annotation
