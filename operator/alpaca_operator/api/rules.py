"""Rules that bind several fields: told once, checked by the API server (CEL) and by us (Python)."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def untouched(field: str, model: type[BaseModel], *, but: frozenset[str] = frozenset()) -> str:
    """CEL: every field of ``self.<field>``, which is a ``model`` without parts of its own, is as when nothing was said of it. ``but``:
    fields (by their Python names) that may be anything. In Python it is a comparison with a part that was made of nothing.

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
    return f"(!has(self.{field}) || ({' && '.join(checks)}))"


def immutable(field: str) -> dict[str, str]:
    """A transition rule: ``field`` of a spec keeps its value, and neither appears nor disappears.

    Comparing ``self == oldSelf`` on the field alone lets it be removed and added again. Flux looks for the words
    "field is immutable" to offer a forced re-creation.
    """
    return {
        "rule": f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        "message": f"field is immutable: to change {field}, create a job with a new name (outputs that did not change are reused)",
    }
