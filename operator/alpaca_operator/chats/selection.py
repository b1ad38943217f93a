"""Pure: the adapters of finished jobs that a deployment selects by their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.resource import Job
from alpaca_operator.api.status import Condition, ResolvedInput
from alpaca_operator.inputs import Inputs, published, selected_field, short

MOST = 16
"""Adapters that are taken: with those of the spec, as many as pods tell of in what the operator reads."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a selector takes."""

    inputs: Inputs = field(default_factory=dict)
    passed_over: tuple[str, ...] = ()
    """Jobs that have the labels, have made an adapter and are not taken: which, and why."""


def select(chat: ChatDeployment, model: ResolvedInput | None, jobs: Sequence[Job]) -> Selection:
    """Of ``jobs`` that have the labels, those whose adapters go on ``model``, by their names."""
    if chat.spec.adapter_selector is None or model is None:
        return Selection()
    taken: dict[str, ResolvedInput] = {}
    passed_over = []
    other = chat.spec.compare_with
    names = {chat.metadata.name, *(one.name for one in chat.spec.adapters)}
    names.add((other.name or f"{chat.metadata.name}-other") if other else None)
    for job in sorted(jobs, key=lambda one: one.metadata.name):
        name = job.metadata.name
        if job.output_kind != "LoRAAdapter" or not _is_complete(job):
            continue
        if why := _unfit(job, model, names, len(taken)):
            passed_over.append(f"{job.kind} {name} {why}")
        else:
            taken[selected_field(name)] = published(job).model_copy(update={"producer": f"{job.kind} {name}"})
    return Selection(taken, tuple(passed_over))


def _is_complete(job: Job) -> bool:
    states = job.status.conditions if job.status else []
    complete = any(one.type == Condition.COMPLETE and one.status == "True" for one in states)
    return complete and not job.metadata.deletion_timestamp


def _unfit(job: Job, model: ResolvedInput, names: set[str | None], taken: int) -> str | None:
    if job.metadata.name in names:
        return "has the name of another model here: its adapter is not served under it, name it in adapters"
    base = ((job.status and job.status.resolved_inputs) or {}).get("model")
    if base is None or not _is_same(base, model):
        trained_on = _named(base) if base else "a model that its status does not name"
        return f"was trained on {trained_on}, and {_named(model)} is served: merge it first"
    if taken >= MOST:
        return f"is one more than the {MOST} that are taken: narrow adapterSelector"
    return None


def _named(one: ResolvedInput) -> str:
    return f"{one.uri}@{short(one.digest)}" if one.digest else one.uri


def _is_same(one: ResolvedInput, other: ResolvedInput) -> bool:
    """By what lies there, where that is known of both."""
    return one.digest == other.digest if one.digest and other.digest else one.uri == other.uri
