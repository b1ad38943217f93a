"""What a planner gives: the children that a resource should have, as the API server takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alpaca_operator.exits import Exit

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """The children that must exist. With a ``refusal`` there are none: the spec is valid, but cannot run in a cluster."""

    manifests: tuple[Manifest, ...] = ()
    refusal: Exit | None = None
