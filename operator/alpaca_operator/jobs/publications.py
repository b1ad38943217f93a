"""Pure: how what a finished job has made gets to the places of its `publish`.

A Job beside its own pushes it to all places that are due. That job is complete meanwhile, and stays so whatever becomes of the push: those
that read its output need no hub. What a place has is told by the last words of the pods, and stands in the status; the rest is due, once
the jobs have ended well that it waits for.
"""

from __future__ import annotations

from collections.abc import Mapping

from alpaca_operator.api.chain import Find, links
from alpaca_operator.api.contract import ANNOTATION_PUSHES
from alpaca_operator.api.publication import PublishGate, publications, word
from alpaca_operator.api.resource import Job
from alpaca_operator.api.status import Condition, PublicationStatus, Reason, Status
from alpaca_operator.cluster.objects import true_condition
from alpaca_operator.diagnosis import diagnose
from alpaca_operator.diagnosis.pod import parse_termination, workload_ended
from alpaca_operator.diagnosis.text import one_line
from alpaca_operator.exits import Exit
from alpaca_operator.inputs import MissingInput, absent, find_job, short, unfinished, worst
from alpaca_operator.jobs.ttl import ttl_end
from alpaca_operator.outcomes.conditions import condition
from alpaca_operator.outcomes.observed import Observed, Pusher
from alpaca_operator.outcomes.verdict import Desired

Told = tuple[str, Reason, str]
"""Status, reason and message of the condition."""


def gates(job: Job, find: Find) -> Mapping[int, MissingInput]:
    """Why nothing is pushed to a place yet, by its number."""
    found = {}
    for number, place in enumerate(publications(job.spec)):
        hindrances = [
            _hindrance(f"publish[{number}].after[{at}]", gate, job, find) for at, gate in enumerate(place.after)
        ]
        if why := worst([one for one in hindrances if one is not None]):
            found[number] = why
    return found


def _hindrance(field: str, gate: PublishGate, job: Job, find: Find) -> MissingInput | None:
    named = gate.from_
    found = find_job(field, named, find)
    if isinstance(found, MissingInput):
        return found
    if missing := absent(field, named, found, job):
        return missing
    assert found is not None
    return unfinished(field, found) or _of_another(field, found, job)


def _of_another(field: str, gate: Job, job: Job) -> MissingInput | None:
    """A gate that measured what the job, or one of its name before it, had made before says nothing of what it has made now."""
    known = (gate.status and gate.status.resolved_inputs) or {}
    made = _digest(job)
    for link in links(gate):
        if (link.producer.kind, link.producer.name) != (job.kind, job.metadata.name) or link.field not in known:
            continue
        measured = known[link.field].digest
        if measured != made:
            who = f"{gate.kind} {gate.metadata.name}"
            return MissingInput(
                Reason.NOT_READY,
                f"{field}: {who} measured {short(measured or 'unknown')}, and {short(made or 'unknown')} is to be pushed: delete {who} and create it "
                "anew, so that it measures that",
            )
    return None


def due(job: Job, observed: Observed) -> list[int]:
    """Numbers of the places that are to have it, may have it, and have it not."""
    if not _is_complete(job):
        return []
    there = {one.uri for one in _done(job, observed)}
    return [
        number
        for number, place in enumerate(publications(job.spec))
        if place.uri not in there and number not in observed.gates
    ]


def pushing(job: Job, observed: Observed) -> Desired:
    """What the job wants of its pusher."""
    pusher, wanted = observed.pusher, _words(job, due(job, observed))
    if pusher is None:
        return Desired.PRESENT if wanted else Desired.UNCHANGED
    if "deletionTimestamp" in pusher.raw["metadata"]:
        return Desired.UNCHANGED
    has = _pushes(pusher)
    if _failed(pusher) or _complete(pusher):
        # Complete and without its words, which were lost with its pod: asked again, it finds all there.
        lost = wanted and _complete(pusher) and not _last_words(pusher)
        outlived = not wanted and (end := ttl_end(job)) is not None and observed.now >= end
        return Desired.ABSENT if lost or outlived or wanted - has else Desired.UNCHANGED
    still_asked = _words(job, range(len(publications(job.spec))))
    return Desired.UNCHANGED if has <= still_asked else Desired.ABSENT


def told(job: Job, observed: Observed, exit: Exit | None, status: Status) -> Status:
    """The status of a finished job with what became of its places."""
    others = [one for one in status.conditions if one.type != Condition.PUBLISHED]
    if not publications(job.spec) or not _is_complete(job):
        return status.model_copy(update={"conditions": others, "publications": None})
    done = _done(job, observed)
    state, reason, message = _state(job, observed, exit, done)
    generation = job.metadata.generation or 0
    published = condition(status, observed.now, generation, Condition.PUBLISHED, state, reason, one_line(message))
    return status.model_copy(update={"conditions": [*others, published], "publications": done or None})


def _state(job: Job, observed: Observed, exit: Exit | None, done: list[PublicationStatus]) -> Told:
    if len(done) == len(publications(job.spec)):
        return "True", Reason.PUBLISHED, "; ".join(f"{one.uri} has it in {one.revision}" for one in done)
    if exit is not None:
        return "False", exit.reason, exit.message
    if not due(job, observed):
        why = worst(list(observed.gates.values()))
        assert why is not None, "neither done nor due"
        return "False", why.reason, why.message
    pusher = observed.pusher
    if pusher is None:
        return "False", Reason.PUBLISHING, "its pod is made"
    name = pusher.raw["metadata"]["name"]
    newest = max(pusher.pods, key=lambda pod: pod.created_at, default=None)
    found = diagnose(newest, observed.now) if newest else None
    if _failed(pusher):
        again = f"once that is mended, kubectl delete job {name} -n {job.metadata.namespace} has it tried again"
        reason = found.reason if found else Reason.WORKLOAD_ERROR
        return "False", reason, f"{found.message if found else f'Job {name} failed and left no pod to ask'}; {again}"
    if found is not None:
        more = "; it is tried again" if found.ended else ""
        return "False", Reason.PUBLISHING if found.ended else found.reason, f"{found.message}{more}"
    return "False", Reason.PUBLISHING, f"pod {newest.name} pushes" if newest else f"Job {name} starts"


def _done(job: Job, observed: Observed) -> list[PublicationStatus]:
    """The places that have what lies at the output: as they told, or as it was told before."""
    made = _digest(job)
    known = {one.uri: one for one in (job.status and job.status.publications) or []}
    for word_ in _last_words(observed.pusher) if observed.pusher else []:
        known[word_.uri] = word_
    return [
        known[place.uri]
        for place in publications(job.spec)
        if place.uri in known and made in (None, known[place.uri].digest)
    ]


def _last_words(pusher: Pusher) -> list[PublicationStatus]:
    found = []
    for pod in sorted(pusher.pods, key=lambda pod: pod.created_at):
        ended = workload_ended(pod)
        said = parse_termination(ended.message) if ended else None
        found += [PublicationStatus.model_validate(one.model_dump()) for one in (said and said.publications) or []]
    return found


def _words(job: Job, numbers: list[int] | range) -> set[str]:
    return {word(publications(job.spec)[number], _digest(job)) for number in numbers}


def _pushes(pusher: Pusher) -> set[str]:
    return set((pusher.raw["metadata"].get("annotations") or {}).get(ANNOTATION_PUSHES, "").split())


def _digest(job: Job) -> str | None:
    return job.status.output.digest if job.status and job.status.output else None


def _is_complete(job: Job) -> bool:
    conditions = job.status.conditions if job.status else []
    return any(one.type == Condition.COMPLETE and one.status == "True" for one in conditions)


def _complete(pusher: Pusher) -> bool:
    return true_condition(pusher.raw, "Complete") is not None


def _failed(pusher: Pusher) -> bool:
    return true_condition(pusher.raw, "Failed") is not None
