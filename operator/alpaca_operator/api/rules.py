"""Rules that bind several fields: told once, checked by the API server (CEL) and by us (Python)."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Rule:
    """A cross-field rule in both languages.

    ``cel`` sees ``self`` after defaulting, as the API server does; ``holds`` sees the same part as a typed model, defaults
    filled in. ``message`` says what is wrong and what to do.
    """

    cel: str
    holds: Callable[[Any], bool]
    message: str

    def as_schema(self) -> dict[str, str]:
        """The entry of ``x-kubernetes-validations``."""
        return {"rule": self.cel, "message": self.message}


def untouched(field: str, model: type[BaseModel], *, but: frozenset[str] = frozenset(), unless: str = "") -> str:
    """CEL: every field of ``self.<field>``, which is a ``model`` without parts of its own, is as when nothing was said of it. ``but``:
    fields (by their Python names) that may be anything. ``unless``: CEL for when the part may be anything; asked only where there is one.
    In Python it is a comparison with a part that was made of nothing.

    What is empty when nothing was said of it is absent on the server: the part itself, a list in it.
    """
    checks = []
    for name, info in model.model_fields.items():
        if name in but:
            continue
        default = info.get_default(call_default_factory=True, validated_data={})
        here = f"self.{field}.{info.alias or name}"
        if default is None:
            checks.append(f"!has({here})")
        elif default in ([], {}):
            checks.append(f"(!has({here}) || size({here}) == 0)")
        else:
            number = float(default) if info.annotation is float else default
            checks.append(f"{here} == {json.dumps(number, ensure_ascii=False)}")
    exempt = f"{unless} || " if unless else ""
    return f"(!has(self.{field}) || {exempt}({' && '.join(checks)}))"


def keep(spec: dict[str, Any], fields: Iterable[str]) -> None:
    """Adds to the schema of a spec that ``fields`` keep their values, and neither appear nor disappear.

    ``self == oldSelf`` on a field alone lets it be removed and added again, so where it can be absent the spec has a rule too. One rule on
    the spec for both would do, but every status write pays for all of them: the API server builds the list of a part's fields anew each
    time that a rule reads one of them, and a rule on the field reads none.
    """
    required = spec.get("required", [])
    for field in fields:
        node = spec["properties"][field]
        _add(node, "self == oldSelf", field)
        if field not in required and "default" not in node:
            _add(spec, f"has(self.{field}) == has(oldSelf.{field})", field)
        if (
            node["type"] == "object"
        ):  # nobody can own a piece of what never changes: one owner, instead of one for each field
            node["x-kubernetes-map-type"] = "atomic"


def _add(node: dict[str, Any], rule: str, field: str) -> None:
    """Flux looks for the words "field is immutable" to offer a forced re-creation."""
    message = (
        f"field is immutable: to change {field}, create a job with a new name (outputs that did not change are reused)"
    )
    node.setdefault("x-kubernetes-validations", []).append({"rule": rule, "message": message})
