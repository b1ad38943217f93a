"""Pure: what a deployment serves of what other jobs make: followed as it is made anew, held where it may not be served.

What is served stands on the child, written together with the pods that serve it. It is exchanged as a whole: a model and its
adapters are never of two minds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from alpaca_operator.api.chain import Find, Link, Select, links, noted
from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import ANNOTATION_ACCEPT
from alpaca_operator.api.serving import Newer
from alpaca_operator.api.sources import sources
from alpaca_operator.api.status import Condition, Reason, ResolvedInput
from alpaca_operator.chats.selection import select as selected
from alpaca_operator.cluster.objects import Object
from alpaca_operator.inputs import (
    HeldUpdate,
    InputResolution,
    Inputs,
    MissingInput,
    absent,
    find_job,
    look,
    named_by_spec,
    short,
    unfinished,
    worst,
)


def resolve(chat: ChatDeployment, child: Object | None, find: Find, select: Select) -> InputResolution:
    """What ``chat`` is to serve now: of what its spec names, and beside it what its selector takes."""
    named = _resolve_named(chat, child, find)
    selector = chat.spec.adapter_selector
    if selector is None or not named.inputs:
        return named
    selection = selected(chat, named.inputs.get("model"), select(selector))
    return replace(named, inputs={**named.inputs, **selection.inputs}, passed_over=selection.passed_over)


def _resolve_named(chat: ChatDeployment, child: Object | None, find: Find) -> InputResolution:
    served = named_by_spec(served_inputs(chat, child))
    found, missing = _available(chat, find)
    of_this_spec = bool(served) and _origins(served) == _origins_of(chat)
    if of_this_spec and (back := _rolled_back(chat, child, served)):
        return back
    if missing is not None:
        # A producer that is made anew, or deleted, changes nothing for what it has made before.
        held = HeldUpdate({}, missing.message) if missing.reason is Reason.PRODUCER_FAILED else None
        return InputResolution(served, held=held) if of_this_spec else InputResolution({}, missing)
    if of_this_spec and _alike(found, served):
        return InputResolution(served)
    if of_this_spec and (newer := _failed_before(chat)) and newer.update == token(found):
        return InputResolution(served, held=HeldUpdate(found, newer.message, failed=True))
    hindrance = _gated(chat, found, find) or (_manual(chat, found) if of_this_spec else None)
    if hindrance is None:
        return InputResolution(found)
    return (
        InputResolution(served, held=HeldUpdate(found, hindrance.message))
        if of_this_spec
        else InputResolution({}, hindrance)
    )


def served_inputs(chat: ChatDeployment, child: Object | None) -> Inputs:
    """What is served: the child has it; where somebody has deleted that, the status."""
    of_child = noted((child or {}).get("metadata", {}).get("annotations") or {})
    return of_child or (chat.status and chat.status.resolved_inputs) or {}


def token(inputs: Inputs) -> str:
    """A short name of an update, for the annotation that accepts it."""
    text = "\n".join(f"{field} {one.uri} {one.digest or one.producer_uid}" for field, one in sorted(inputs.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _rolled_back(chat: ChatDeployment, child: Object | None, served: Inputs) -> InputResolution | None:
    """Where old pods had to go before new ones could start (`Recreate`), a new model that does not become ready gives its place back to
    the last one that did. Where both have room, the old pods are still there."""
    status = chat.status
    if status is None or (child or {}).get("spec", {}).get("strategy", {}).get("type") != "Recreate":
        return None
    last = named_by_spec(status.served_inputs or {})
    # By what its pods did: a spec that was refused was never tried.
    stalled = any(
        one.type == Condition.STALLED and one.status == "True" and one.reason != Reason.INVALID_SPEC
        for one in status.conditions
    )
    tried = (
        named_by_spec(status.resolved_inputs or {}) == served and status.observed_generation == chat.metadata.generation
    )
    if not (stalled and tried) or _origins(last) != _origins(served) or _alike(served, last):
        return None
    why = status.failure.message if status.failure else "no reason given"
    return InputResolution(last, held=HeldUpdate(served, f"it did not become ready: {why}", failed=True))


def _failed_before(chat: ChatDeployment) -> Newer | None:
    """What was tried under this spec and gave its place back: it is not tried again."""
    status = chat.status
    if status is None or status.newer is None or status.observed_generation != chat.metadata.generation:
        return None
    return status.newer if status.newer.failed else None


def _available(chat: ChatDeployment, find: Find) -> tuple[Inputs, MissingInput | None]:
    """Every source as it is now."""
    found: dict[str, ResolvedInput] = {
        field: ResolvedInput(uri=source.uri) for field, source in sources(chat.spec) if source.uri is not None
    }
    all_missing = []
    for link in links(chat):
        result = look(link, chat, find)
        if isinstance(result, MissingInput):
            all_missing.append(result)
        else:
            found[link.field] = result.model_copy(update={"producer": _producer(link)})
    return found, worst(all_missing)


def _producer(link: Link) -> str:
    return f"{link.producer.kind} {link.producer.name}"


def _origins(inputs: Inputs) -> Mapping[str, str]:
    """Where the spec says that each input comes from."""
    return {field: one.producer or one.uri for field, one in inputs.items()}


def _origins_of(chat: ChatDeployment) -> Mapping[str, str]:
    named = {link.field: _producer(link) for link in links(chat)}
    return {field: named.get(field) or source.uri or "" for field, source in sources(chat.spec)}


def _alike(found: Inputs, served: Inputs) -> bool:
    """Whether the pods would load the same. A job made anew that found its result there has another UID and the same digest."""
    return all(
        (one.uri, one.digest) == (served[field].uri, served[field].digest)
        and (one.digest is not None or one.producer_uid == served[field].producer_uid)
        for field, one in found.items()
    )


def _manual(chat: ChatDeployment, found: Inputs) -> MissingInput | None:
    update = token(found)
    if chat.spec.update_policy != "Manual" or chat.metadata.annotations.get(ANNOTATION_ACCEPT) == update:
        return None
    return MissingInput(
        Reason.NOT_READY,
        f"updatePolicy is Manual: kubectl annotate chat {chat.metadata.name} {ANNOTATION_ACCEPT}={update} --overwrite serves it",
    )


def _gated(chat: ChatDeployment, found: Inputs, find: Find) -> MissingInput | None:
    """Why a gate does not let these inputs pass."""
    all_missing = []
    for number, gate in enumerate(chat.spec.gates):
        field = f"gates[{number}]"
        job = find_job(field, gate.from_, find)
        if isinstance(job, MissingInput):
            all_missing.append(job)
            continue
        missing = absent(field, gate.from_, job, chat)
        if missing is None and job is not None:
            missing = unfinished(field, job) or _of_another(field, job.kind, job.metadata.name, _read(job), found)
        if missing is not None:
            all_missing.append(missing)
    return worst(all_missing)


def _read(job: Any) -> dict[str, ResolvedInput]:
    """What a gate's job has read, by the job that made it."""
    known = (job.status and job.status.resolved_inputs) or {}
    return {_producer(link): known[link.field] for link in links(job) if link.field in known}


def _of_another(
    field: str, kind: str, name: str, read: Mapping[str, ResolvedInput], found: Inputs
) -> MissingInput | None:
    """A gate that measured what the same job had made before says nothing of what it has made now."""
    for one in found.values():
        measured = read.get(one.producer or "")
        if measured is None or measured.producer_uid == one.producer_uid:
            continue
        if measured.digest is None or measured.digest != one.digest:
            measured_digest, made_digest = short(measured.digest or "unknown"), short(one.digest or "unknown")
            return MissingInput(
                Reason.NOT_READY,
                f"{field}: {kind} {name} measured {measured_digest} of {one.producer}, which has made {made_digest} since: delete {kind} {name} and create "
                "it anew, so that it measures that",
            )
    return None
