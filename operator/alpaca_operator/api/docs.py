"""The reference page, generated: ``python -m alpaca_operator.api.docs FILE``."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alpaca_operator.api import KINDS
from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.resource import API_VERSION, PLURALS, Resource
from alpaca_operator.api.schema import resource_schema
from alpaca_operator.api.sentences import sentences
from alpaca_operator.api.status import Condition, Reason

HEAD = """<!-- Generated from operator/alpaca_operator/api by `make generate`. Do not edit. -->
# API reference

Every field of every kind, as the API server, `kubectl explain`, `python -m workloads.<noun> --help` and the workloads know it.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD, *(_kind(kind) for kind in KINDS.values()), _reasons(), _exit_codes()]
    return "\n".join(parts)


def _kind(kind: type[Resource]) -> str:
    schema = resource_schema(kind)
    lines = [
        f"## {kind.__name__}",
        "",
        f"{schema['description']}",
        "",
        f"`apiVersion: {API_VERSION}`, plural `{PLURALS[kind.__name__]}`, short `{'`, `'.join(kind.short_names)}`;"
        f" locally `python -m workloads.{kind.workload} FILE`.",
    ]
    for part in ("spec", "status"):
        lines += ["", f"### {kind.__name__} {part}", "", "| field | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(path, node, required) for path, node, required in _fields(schema["properties"][part], part)]
    rules = [rule for _, node, _ in _fields(schema, "") for rule in node.get("x-kubernetes-validations", [])]
    lines += ["", f"### {kind.__name__} rules", "", "Refused by `kubectl apply`, and by the workload on a laptop:", ""]
    lines += dict.fromkeys(
        f"- {rule['message']}" for rule in rules if "oldSelf" not in rule["rule"]
    )  # many fields have one rule
    lines += [f"- {rule['message']}" for rule in schema["x-kubernetes-validations"]]
    model = kind.model_fields["spec"].annotation
    mutable = ", ".join(f"`{field}`" for field in sorted(getattr(model, "mutable", ())))
    lines += [f'- After creation only {mutable} may change; any other change is refused with "field is immutable".', ""]
    return "\n".join(lines)


def _fields(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Every field below ``node``, in order, with its path and whether it must be given."""
    for name, child in node.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield here, child, name in node.get("required", [])
        yield from _fields(child, here)
        if child.get("type") == "array":
            yield from _fields(child["items"], f"{here}[]")


def _row(path: str, node: dict[str, Any], required: bool) -> str:
    default = "required" if required else _code(node["default"]) if "default" in node else ""
    return f"| `{path.partition('.')[2]}` | {_type(node)} | {default} | {node.get('description', '').replace('|', chr(92) + '|')} |"


def _code(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`" if value != {} else ""


def _type(node: dict[str, Any]) -> str:
    if "enum" in node:
        return " \\| ".join(f"`{value}`" for value in node["enum"])
    if node.get("x-kubernetes-int-or-string"):
        return "quantity"
    if node.get("type") == "array":
        return f"list of {_type(node['items'])}"
    if "additionalProperties" in node and isinstance(node["additionalProperties"], dict):
        return f"map of {_type(node['additionalProperties'])}"
    bounds = []
    if "minimum" in node:
        bounds.append(f"{'>' if node.get('exclusiveMinimum') else '≥'} {node['minimum']}")
    if "maximum" in node:
        bounds.append(f"{'<' if node.get('exclusiveMaximum') else '≤'} {node['maximum']}")
    return f"{node.get('type', 'any')}" + (f" ({', '.join(bounds)})" if bounds else "")


def _reasons() -> str:
    lines = ["## Conditions and reasons", "", "| condition | True when |", "|---|---|"]
    lines += [f"| `{condition}` | {meaning} |" for condition, meaning in _members(Condition)]
    lines += ["", "STATE in `kubectl get` is the reason of Ready:", "", "| reason | meaning |", "|---|---|"]
    lines += [f"| `{reason}` | {meaning} |" for reason, meaning in _members(Reason)]
    return "\n".join([*lines, ""])


def _exit_codes() -> str:
    lines = ["## Exit codes of a workload", "", "| code | name | meaning |", "|---|---|---|"]
    lines += [f"| {ExitCode[name].value} | `{name}` | {text} |" for name, text in _members(ExitCode, by_name=True)]
    return "\n".join([*lines, ""])


def _members(enum: Any, by_name: bool = False) -> list[tuple[str, str]]:
    """Members of an enum, each with the sentence under it."""
    told = sentences(enum)
    return [(member.name if by_name else member.value, told[member.name]) for member in enum]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
