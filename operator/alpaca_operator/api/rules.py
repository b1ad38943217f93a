"""Rules that bind several fields: told once, checked by the API server (CEL) and by us (Python)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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


def immutable(field: str) -> dict[str, str]:
    """A transition rule: ``field`` of a spec keeps its value, and neither appears nor disappears.

    Comparing ``self == oldSelf`` on the field alone lets it be removed and added again. Flux looks for the words
    "field is immutable" to offer a forced re-creation.
    """
    return {
        "rule": f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        "message": f"field is immutable: to change {field}, create a job with a new name (outputs that did not change are reused)",
    }
