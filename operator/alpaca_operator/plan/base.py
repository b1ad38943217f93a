"""What a planner gives: the children that a resource should have, as the API server takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alpaca_operator.api.status import ResolvedInput
from alpaca_operator.diagnosis import Refusal

Manifest = dict[str, Any]
Inputs = Mapping[str, ResolvedInput]
"""Inputs made by other jobs, by their field path in the spec (``model``, ``dataset.train[0]``), pinned before the start.
Empty while every source is a URI."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The children that must exist. With a ``refusal`` there are none: the spec is valid, but cannot run in a cluster."""

    manifests: tuple[Manifest, ...] = ()
    refusal: Refusal | None = None
