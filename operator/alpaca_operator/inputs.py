"""Pure: what a job reads from other jobs: where it lies, or why it is not there yet.

Found out once, when the job starts. From then on what was found stands in its child and its status, and a producer that is deleted
or replaced changes nothing for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alpaca_operator.api import Resource
from alpaca_operator.api.chain import Find, Link, mismatch
from alpaca_operator.api.resource import Job
from alpaca_operator.api.sources import JobReference
from alpaca_operator.api.status import Condition, ConditionStatus, Reason, ResolvedInput
from alpaca_operator.diagnosis.text import one_line
from alpaca_operator.exits import Unreadable


@dataclass(frozen=True, slots=True)
class HeldUpdate:
    """Inputs that are there and not served."""

    inputs: Inputs
    message: str
    """Why not, and what to do."""
    failed: bool = False
    """It was tried, and did not become ready."""


@dataclass(frozen=True, slots=True)
class InputResolution:
    """What is to be served: of all sources, by field."""

    inputs: Inputs
    missing: MissingInput | None = None
    """Why nothing new can be served, where the spec asks for something else than is served now, or nothing is."""
    held: HeldUpdate | None = None
    passed_over: tuple[str, ...] = ()
    """What a selector takes no input from: which, and why."""


def short(digest: str) -> str:
    """A digest as messages show it."""
    return digest[: len("sha256:") + 12]


Inputs = Mapping[str, ResolvedInput]
"""By field path in the spec: ``model``, ``dataset.train[0]``."""

SELECTED = "adapterSelector"
"""The field that takes inputs by the labels of jobs."""


def selected_field(name: str) -> str:
    """The name of the input that is taken of a job of this name."""
    return f"{SELECTED}[{name}]"


def selected_name(field: str) -> str | None:
    """The name of the job that an input was taken of by its labels; None for the inputs that the spec itself names."""
    return field[len(SELECTED) + 1 : -1] if field.startswith(f"{SELECTED}[") else None


def named_by_spec(inputs: Inputs) -> dict[str, ResolvedInput]:
    """Those that the spec itself names."""
    return {field: found for field, found in inputs.items() if selected_name(field) is None}


ORDER = (
    Reason.CYCLE_DETECTED,
    Reason.KIND_MISMATCH,
    Reason.PRODUCER_FAILED,
    Reason.NOT_FOUND,
    Reason.NOT_READY,
)
"""Of several inputs that are not there the first of these is told: what only a person can mend before what is waited for."""


@dataclass(frozen=True, slots=True)
class MissingInput:
    """Why inputs that other jobs make are not there."""

    reason: Reason
    message: str

    @property
    def transient(self) -> bool:
        """Whether waiting may help."""
        return self.reason in (Reason.NOT_FOUND, Reason.NOT_READY)


def look(link: Link, resource: Resource, find: Find) -> ResolvedInput | MissingInput:
    producer = find_job(link.field, link.producer, find)
    if isinstance(producer, MissingInput):
        return producer
    if missing := absent(link.field, link.producer, producer, resource):
        return missing
    assert producer is not None
    if problem := mismatch(link, producer):
        remedy = "; specs are immutable, so in a job of another name" if resource.spec.fixed() else ""
        return MissingInput(Reason.KIND_MISMATCH, f"{problem}{remedy}")
    return unfinished(link.field, producer) or published(producer)


def find_job(field: str, named: JobReference, find: Find) -> Job | MissingInput | None:
    """The job that ``field`` names. One that cannot be read says why itself, and keeps nobody from being told of it."""
    try:
        return find(named)
    except Unreadable:
        return MissingInput(
            Reason.NOT_READY,
            f"waits for {named.kind} {named.name} ({field}.from), which cannot be read: its own status says why",
        )


def readable(find: Find) -> Find:
    """The same, without those that cannot be read."""

    def found(named: JobReference) -> Job | None:
        job = find_job("", named, find)
        return None if isinstance(job, MissingInput) else job

    return found


def absent(field: str, named: JobReference, producer: Job | None, resource: Resource) -> MissingInput | None:
    """Why a job that ``field`` names is not there."""
    if producer is not None and not producer.metadata.deletion_timestamp:
        return None
    state = "does not exist" if producer is None else "is being deleted"
    return MissingInput(
        Reason.NOT_FOUND,
        f"{field}.from names {named.kind} {named.name}, which {state} in namespace {resource.metadata.namespace}: create it",
    )


def unfinished(field: str, producer: Job) -> MissingInput | None:
    """Why a job that ``field`` names has not ended well."""
    who = f"{producer.kind} {producer.metadata.name}"
    states = {one.type: one for one in producer.status.conditions} if producer.status else {}
    if _holds(states, Condition.COMPLETE):
        return None
    if _holds(states, Condition.FAILED):
        return MissingInput(
            Reason.PRODUCER_FAILED,
            f"{field}.from names {who}, which failed ({_why(states)}): delete that job and create it anew, corrected, under the "
            "same name; this one then starts by itself",
        )
    return MissingInput(Reason.NOT_READY, f"waits for {who} ({field}.from) to complete{_hindrance(states)}")


def published(producer: Job) -> ResolvedInput:
    """What a job that is complete has made."""
    output = producer.status.output if producer.status else None
    return ResolvedInput(
        # A pod whose last word was lost has published all the same, where its spec says.
        uri=output.uri if output else producer.spec.output.uri,
        digest=output.digest if output else None,
        producer_uid=producer.metadata.uid,
    )


def _hindrance(states: Mapping[str, ConditionStatus]) -> str:
    """What a person has to do before the producer can. Not told where it just runs: that would be a write with each of its states."""
    if _holds(states, Condition.SUSPENDED):
        return ", which is suspended: set its spec.suspend to false"
    return f", which is stuck ({_why(states)})" if _holds(states, Condition.STALLED) else ""


def _why(states: Mapping[str, ConditionStatus]) -> str:
    ready = states.get(Condition.READY)
    return f"{ready.reason}: {ready.message}" if ready else "no reason given"


def _holds(states: Mapping[str, ConditionStatus], condition: Condition) -> bool:
    return condition in states and states[condition].status == "True"


def worst(all_missing: list[MissingInput]) -> MissingInput | None:
    """One reason, and all that is to be said of it."""
    for reason in ORDER:
        if messages := dict.fromkeys(missing.message for missing in all_missing if missing.reason is reason):
            return MissingInput(reason, one_line("; ".join(messages)))
    return None
