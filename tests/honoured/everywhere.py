"""What any resource can be seen by: its plan, whom it waits for, and what the operator and the runtime make of it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

from alpaca_operator.api import KINDS, Resource
from alpaca_operator.api.chain import links
from alpaca_operator.api.contract import ANNOTATION_CONFIG, ANNOTATION_PUSHES, LABEL_REVISION
from alpaca_operator.api.resource import Job
from alpaca_operator.api.status import ResolvedInput
from alpaca_operator.chats import updates
from alpaca_operator.jobs import publications, rescale, ttl, verdicts
from alpaca_operator.plan import PLANNERS
from alpaca_operator.plan.pusher import pusher
from alpaca_operator.settings import Settings
from tests.honoured.desk import Desk, Reached
from workloads.errors import SpecError, WorkloadError
from workloads.publication import hub
from workloads.publication.place import Target
from workloads.runtime import execute
from workloads.storage.artifact import Publisher

PUSHED: Any = SimpleNamespace(output=SimpleNamespace(digest="sha256:made"))
"""The status of a job whose output is to be pushed."""
SETTINGS = Settings(images=dict.fromkeys(KINDS, "image"), image_page="page", image_vllm="vllm")


def plan(resource: Resource) -> str:
    """The manifests, without the copy of the spec that the pod reads, which shows every field and proves nothing."""
    made = {link.field: ResolvedInput(uri="pvc://made/by-a-job") for link in links(resource)}
    planned = PLANNERS[resource.kind](resource, made, SETTINGS)
    if planned.refusal is not None:
        raise SpecError(str(planned.refusal))
    return json.dumps(_without_copies(list(planned.manifests)), sort_keys=True, default=str)


def _without_copies(part: Any) -> Any:
    """The part of a manifest without the copy of the spec, however deep the template of a pod lies in it."""
    if isinstance(part, dict):
        copies = (ANNOTATION_CONFIG, ANNOTATION_PUSHES, LABEL_REVISION)
        return {name: _without_copies(value) for name, value in part.items() if name not in copies}
    return [_without_copies(each) for each in part] if isinstance(part, list) else part


def waits_for(resource: Resource) -> list[str]:
    """The jobs whose outputs it reads."""
    return [f"{link.field}: {link.producer.kind} {link.producer.name}" for link in links(resource)]


WITHOUT_ROOM: Any = SimpleNamespace(is_being_deleted=False, has_ended=False, held_since="2026-01-01T00:00:00Z", size=4)
"""A child of four nodes that waits in a queue."""


def operator_of_jobs(job: Any) -> list[Any]:
    """What the operator does at the end, after disruptions, and when told to hold."""
    ended = job.model_copy(update={"status": SimpleNamespace(completion_time="2026-01-01T00:00:00Z")})
    case = MagicMock(resource=job, infra=5)
    return [
        ttl.ttl_end(ended),
        verdicts.too_many_disruptions(case) is None,
        verdicts.suspended(case) is None,
        rescale.shortage(job, WITHOUT_ROOM, []),
    ]


LABELLED = ({"team": "poetry"}, {"team": "prose"}, {"reviewed": "yes"}, {})


def operator_of_chats(chat: Any) -> list[Any]:
    """What it asks before it serves a newer model, and which jobs' adapters it serves beside it."""
    asked: list[str] = []

    def find(reference: Any) -> None:
        asked.append(str(reference))

    def select(wanted: Any) -> list[Any]:
        asked.append(str([wanted.holds(labels) for labels in LABELLED]))
        return []

    updates._gated(chat, {}, find)
    updates.resolve(chat, None, find, select)
    return [asked, updates._manual(chat, {}) is None]


def pushing(job: Any) -> list[Any]:
    """What pushes its output where, and whom that waits for."""
    asked: list[str] = []

    def find(reference: Any) -> None:
        asked.append(str(reference))

    publications.gates(job, find)
    places = [Target(one, "here", {}, str, lambda: None) for one in getattr(job.spec, "publish", ())]
    reached = [(hub.Repository(one).address, one.private) for one in places]
    made = job.model_copy(update={"status": PUSHED})
    manifest = pusher(made, range(len(places)), SETTINGS) if places else {}
    return [asked, reached, _without_copies(manifest)]


def watchdog(job: Job) -> Any:
    """The silence after which the run counts as hung."""
    with patch.object(execute, "Watchdog", side_effect=Reached) as made, suppress(Reached):
        execute.guarded(job, MagicMock(), MagicMock(), MagicMock(), MagicMock())
    return made.call_args


def output(job: Job, desk: Desk) -> str:
    """What becomes of an artifact of other settings that lies there."""
    place = MagicMock(uri=job.spec.output.uri)
    place.artifact.return_value.spec_digest = "sha256:another"
    try:
        return str(Publisher(job, desk.inputs(job), place, MagicMock()).look())[:60]
    except WorkloadError as error:
        return f"left alone: {str(error)[:60]}"


def scratch_of(folder: Path, resource: Resource) -> Path:
    """A folder of its own for a run: what one has prepared, another one would find."""
    return folder / f"run-{abs(hash(resource.model_dump_json()))}"
