"""Pure: the adapters beside each other on a deployment's model: what its pods are to be told of them, and what they tell."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from alpaca_operator.api.contract import ANNOTATION_ADAPTERS, LABEL_REVISION, AdapterList
from alpaca_operator.api.status import ConditionStatus, Reason
from alpaca_operator.cluster.objects import Object, Pod
from alpaca_operator.diagnosis.text import one_line
from alpaca_operator.outcomes.observed import Observed

State = tuple[str, Reason, str]
"""Status, reason and message of a condition."""


def retold(observed: Observed) -> list[tuple[Pod, dict[str, Any]]]:
    """Pods of the newest plan whose list is not the newest, and what brings it to them. Those of an earlier one serve another model, or lack
    what the list needs: they go."""
    child = observed.child or {}
    wanted = _annotations(child).get(ANNOTATION_ADAPTERS)
    revision = child.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {}).get(LABEL_REVISION)
    if wanted is None:
        return []
    patch = {"metadata": {"annotations": {ANNOTATION_ADAPTERS: wanted}}}
    return [
        (pod, patch)
        for pod in observed.pods
        if pod.labels.get(LABEL_REVISION) == revision
        and not (pod.is_over or pod.deletion_timestamp)
        and _annotations(pod.raw).get(ANNOTATION_ADAPTERS) != wanted
    ]


def refused(observed: Observed) -> dict[str, str]:
    """By their names those that a pod refuses, and why."""
    wanted = set(_wanted(observed))
    told = [pairs for sample, _ in observed.traffic for pairs in sample.adapters_refused.items()]
    return {name: why for name, why in sorted(told) if name in wanted}


def loaded(observed: Observed, known: ConditionStatus | None) -> State | None:
    """What the condition says of them; None where there are none, and nothing is to be said. ``known``: what it said before, of pods that
    are ready still."""
    wanted = _wanted(observed)
    if not wanted and not observed.passed_over:
        return None
    no = refused(observed)
    missing = [f"{name}: {why}" for name, why in no.items()] + list(observed.passed_over)
    if missing:
        return "False", Reason.ADAPTER_REFUSED, one_line("; ".join(missing))
    samples = [sample for sample, _ in observed.traffic]
    answer = one_line(f"{', '.join(wanted)} {'answers' if len(wanted) == 1 else 'answer'}")
    # An operator that was just started has asked no pod yet: that they answered until then is no news.
    if not samples and known is not None and (known.status, known.message) == ("True", answer):
        return "True", Reason.SERVING, answer
    coming = [name for name in wanted if not samples or any(name not in sample.digests for sample in samples)]
    if coming:
        return "False", Reason.PENDING, one_line(f"{', '.join(coming)}: pods load what is new on the list")
    return "True", Reason.SERVING, answer


def _wanted(observed: Observed) -> list[str]:
    """Names, as they are on the list of the child."""
    text = _annotations(observed.child or {}).get(ANNOTATION_ADAPTERS)
    try:
        return [each.name for each in AdapterList.model_validate_json(text).adapters] if text else []
    except ValidationError:  # somebody has spoilt it, and it is written anew
        return []


def _annotations(obj: Object) -> dict[str, str]:
    return (obj.get("metadata") or {}).get("annotations") or {}
