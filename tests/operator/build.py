"""Objects as the API server sends them, showing only what matters to the case."""

from __future__ import annotations

import itertools
from typing import Any

from alpaca_operator.api.contract import LABEL_MANAGED_BY, LABEL_UID, MANAGED_BY
from alpaca_operator.api.status import unseen

Object = dict[str, Any]

_versions = itertools.count(1000)


def next_version() -> str:
    return str(next(_versions))


def job(name: str = "poet", *, uid: str = "uid-poet", namespace: str = "team", **changes: Any) -> Object:
    """An SFTJob. ``changes``: metadata, spec and status, each laid over what is here."""
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "SFTJob",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid,
            "generation": 1,
            "resourceVersion": next_version(),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **changes.get("metadata", {}),
        },
        "spec": {
            "model": {"uri": "pvc://models/tiny"},
            "dataset": {"train": [{"uri": "pvc://data/train.jsonl"}]},
            "output": {"uri": f"pvc://models/{name}"},
            **changes.get("spec", {}),
        },
        "status": {**unseen(), **changes.get("status", {})},
    }


def child(
    kind: str,
    name: str,
    *,
    uid: str = "",
    of: str = "uid-poet",
    owner: str = "poet",
    namespace: str = "team",
    **changes: Any,
) -> Object:
    """A Job of the resource called ``owner`` with the UID ``of``, or a Pod of that Job."""
    parent = {"kind": "SFTJob", "name": owner, "uid": of, "controller": True}
    if kind == "Pod":
        parent = {"kind": "Job", "name": f"{owner}-sft", "uid": f"uid-{owner}-sft", "controller": True}
    return {
        "apiVersion": "batch/v1" if kind == "Job" else "v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid or f"uid-{name}",
            "resourceVersion": next_version(),
            "creationTimestamp": "2026-01-01T00:00:01Z",
            "labels": {LABEL_MANAGED_BY: MANAGED_BY, LABEL_UID: of},
            "ownerReferences": [parent],
            **changes.get("metadata", {}),
        },
        "spec": changes.get("spec", {}),
        "status": changes.get("status", {}),
    }


def newer(obj: Object, **changes: Any) -> Object:
    """The same object a moment later."""
    metadata = {**obj["metadata"], **changes.pop("metadata", {}), "resourceVersion": next_version()}
    return {**obj, **changes, "metadata": metadata}
