"""Chains: which job reads what another publishes. The same rules in a cluster and in a file on a laptop."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError

from alpaca_operator.api.contract import ANNOTATION_INPUTS
from alpaca_operator.api.resource import Job, Resource
from alpaca_operator.api.selectors import LabelSelector
from alpaca_operator.api.sources import JobReference, Source, sources
from alpaca_operator.api.status import OutputKind, ResolvedInput

Find = Callable[[JobReference], Job | None]
"""The job that a reference names, where it is known."""


Select = Callable[[LabelSelector], list[Job]]
"""The jobs that make adapters, and have these labels."""


class Link(NamedTuple):
    """An input that another job makes."""

    field: str
    """Path in the spec: ``model``, ``adapters[0]``."""
    source: Source
    producer: JobReference


def links(resource: Resource) -> Iterator[Link]:
    """Every ``from`` of the resource, in the order of its spec."""
    for field, source in sources(resource.spec):
        if source.from_ is not None:
            yield Link(field, source, source.from_)


def mismatch(link: Link, producer: Job) -> str | None:
    """Why the producer's output does not fit the input, or None where it does."""
    if producer.output_kind in link.source.accepts:
        return None
    wanted = " or ".join(sorted(link.source.accepts)) or "nothing that a job makes"
    takes_models = "Model" in link.source.accepts
    remedy = NEARLY_A_MODEL.get(producer.output_kind, ELSEWHERE) if takes_models else ELSEWHERE
    return (
        f"{link.field}.from names {producer.kind} {producer.metadata.name}, which makes a {producer.output_kind}; "
        f"{link.field} takes {wanted}: {remedy}"
    )


NEARLY_A_MODEL: dict[OutputKind, str] = {
    "LoRAAdapter": "set merge on it, or put a MergeJob between",
    "GPTQModel": "name the job whose model was quantized",
    "GGUFModel": "name the job whose model was written as GGUF",
    "FP8Model": "name the job whose model was written in FP8",
}
"""What to do with an output that comes close, where a model is wanted."""
ELSEWHERE = "name a job that makes one"


NOTE = TypeAdapter(dict[str, ResolvedInput], config=ConfigDict(defer_build=True))


def note(inputs: Mapping[str, ResolvedInput]) -> dict[str, str]:
    """What a job found of other jobs' outputs when it started, by field, as an annotation: on its child for the operator, in its
    configuration for the workload."""
    text = NOTE.dump_json(dict(inputs), by_alias=True, exclude_none=True).decode()
    return {ANNOTATION_INPUTS: text} if inputs else {}


def noted(annotations: Mapping[str, str]) -> dict[str, ResolvedInput]:
    """What ``note`` wrote; nothing where somebody has taken it away, or spoilt it."""
    try:
        return NOTE.validate_json(annotations.get(ANNOTATION_INPUTS) or "{}")
    except ValidationError:
        return {}


def cycle(job: Resource, find: Find) -> list[str] | None:
    """Names along a circle of references that leads from ``job`` back to it, or None."""
    start = (job.kind, job.metadata.name)
    path = [job.metadata.name]
    ahead = [links(job)]  # of every job on the path, the references that were not followed yet
    seen: set[tuple[str, str]] = set()
    while ahead:
        link = next(ahead[-1], None)
        if link is None:
            ahead.pop()
            path.pop()
            continue
        key = (link.producer.kind, link.producer.name)
        if key == start:
            return [*path, link.producer.name]
        if key in seen:
            continue
        seen.add(key)
        following = find(link.producer)
        if following is not None:
            path.append(link.producer.name)
            ahead.append(links(following))
    return None
