"""Children that are kept as they are planned for as long as their resource lives: what to apply, and whether that would change anything.

Two things tell: the digest of the plan on the child, which sees what was taken out of the plan, and the fields themselves, which
see what somebody else has changed. Fields that the plan does not have are not ours.
"""

from __future__ import annotations

import hashlib
import json
import re
from decimal import Decimal
from typing import Any

from alpaca_operator.api.contract import ANNOTATION_ADAPTERS, ANNOTATION_APPLIED, ANNOTATION_REPLICAS, LABEL_REVISION
from alpaca_operator.plan.base import Manifest

DEPLOYMENT_REVISION = "deployment.kubernetes.io/revision"
"""Counted up by the Deployment controller after each apply."""


def with_digest(manifest: Manifest) -> Manifest:
    """The manifest with its own digest."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), ANNOTATION_APPLIED: digest(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def digest(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16]


def as_scaled(manifest: Manifest, live: Manifest) -> Manifest:
    """With the pods that an autoscaler or `kubectl scale` has given the child, unless its resource asks for another number than before."""
    planned_replicas = manifest["metadata"].get("annotations", {}).get(ANNOTATION_REPLICAS)
    recorded = live["metadata"].get("annotations", {}).get(ANNOTATION_REPLICAS)
    if planned_replicas is None or planned_replicas != recorded:
        return manifest
    return {**manifest, "spec": {**manifest["spec"], "replicas": live["spec"]["replicas"]}}


def as_listed(manifest: Manifest, live: Manifest) -> Manifest:
    """With the list of adapters that the pods of this plan were made with, unless there is a new plan: another list is no reason for new
    pods, those there are told of it."""
    planned, there = (each.get("spec", {}).get("template", {}).get("metadata", {}) for each in (manifest, live))
    made_with = (there.get("annotations") or {}).get(ANNOTATION_ADAPTERS)
    revisions = {(each.get("labels") or {}).get(LABEL_REVISION) for each in (planned, there)}
    if made_with is None or len(revisions) > 1 or None in revisions:
        return manifest
    annotations = {**planned["annotations"], ANNOTATION_ADAPTERS: made_with}
    template = {**manifest["spec"]["template"], "metadata": {**planned, "annotations": annotations}}
    return {**manifest, "spec": {**manifest["spec"], "template": template}}


def holds(planned: Any, live: Any) -> bool:
    """Whether every field of the plan is in the live object; defaults and what others added may be there too."""
    if isinstance(planned, dict):
        return isinstance(live, dict) and all(
            name in live and holds(each, live[name]) for name, each in planned.items()
        )
    if isinstance(planned, list):
        if not isinstance(live, list):
            return False
        if planned and all(isinstance(each, dict) and "name" in each for each in planned):
            named = {each.get("name"): each for each in live if isinstance(each, dict)}
            return all(each["name"] in named and holds(each, named[each["name"]]) for each in planned)
        return len(planned) == len(live) and all(holds(*pair) for pair in zip(planned, live, strict=True))
    return bool(planned == live) or (_quantity(planned) is not None and _quantity(planned) == _quantity(live))


def outcome(planned: Manifest, live: Manifest) -> tuple[str, str]:
    """What was asked for, and what there is now but for the status: the same twice, there is nothing to apply."""
    metadata = live["metadata"]
    kept = {name: metadata.get(name) or {} for name in ("labels", "annotations", "ownerReferences")}
    kept["annotations"] = {name: each for name, each in kept["annotations"].items() if name != DEPLOYMENT_REVISION}
    return digest(planned), digest(
        [kept, {name: each for name, each in live.items() if name not in ("metadata", "status")}]
    )


QUANTITY = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)(?P<suffix>m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?")
SUFFIXES = {"": Decimal(1), "m": Decimal("0.001")}
SUFFIXES |= {name: Decimal(1000) ** power for power, name in enumerate("kMGTPE", 1)}
SUFFIXES |= {f"{name.upper()}i": Decimal(1024) ** power for power, name in enumerate("kMGTPE", 1)}


def _quantity(value: Any) -> Decimal | None:
    """Of `1000m` and `1` the same: the API server writes quantities in its own way."""
    found = (
        QUANTITY.fullmatch(str(value)) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    )
    return Decimal(found["number"]) * SUFFIXES[found["suffix"] or ""] if found else None
