"""What ``kubectl describe`` lists: an Event for each change of state that a person may want to know of.

Made after the status that tells the same has landed: an Event cannot be taken back. A healthy job gets one, at its end; should the
operator die between the two, the next one finds the end untold.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from alpaca_operator.api import Resource
from alpaca_operator.api.status import Condition, Reason
from alpaca_operator.api.text import fitted
from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.objects import parse_time
from alpaca_operator.cluster.resources import EVENTS
from alpaca_operator.errors import ApiError, Unreachable
from alpaca_operator.exits import Exit, Unavailable

log = logging.getLogger(__name__)

CONTROLLER = "literary-alpaca.io/operator"
SERVER_WARNING = "ServerWarning"
"""Reason of an Event that passes on what the API server warned of."""
ANOTHER_OPERATOR = "AnotherOperator"
"""Reason of the Event of an operator that leaves a resource to another one."""
NOTE_LIMIT = 1024
"""Bytes of a note that the API server takes."""

RECENT = timedelta(minutes=10)
"""Longer than an operator takes to be started anew; and no ends of last week are told when one is."""

QUIET = frozenset(
    {
        Reason.PENDING,
        Reason.NOT_FOUND,
        Reason.NOT_READY,
        Reason.QUEUED,
        Reason.STARTING,
        Reason.RUNNING,
        Reason.STOPPING,
        Reason.PUBLISHING,
        Reason.UPDATING,
        Reason.DEGRADED,
    }
)
"""States on the usual way; the status tells them."""
NORMAL = frozenset(
    {
        Reason.SUCCEEDED,
        Reason.REUSED,
        Reason.PUBLISHED,
        Reason.SUSPENDED,
        Reason.INTERRUPTED,
        Reason.SERVING,
        Reason.SCALED_TO_ZERO,
        Reason.UPDATE_HELD,
    }
)


class Note(NamedTuple):
    """An Event to be."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def of_transition(before: dict[str, Any], after: dict[str, Any]) -> Note | None:
    """The Event that a change of status deserves, or None. Speaks of the Ready condition, as the STATE column does."""
    old, new = ready(before), ready(after)
    if not new or new.get("reason") == old.get("reason") or new["reason"] in QUIET:
        return None
    return _note(new)


def of_exposure(before: dict[str, Any], after: dict[str, Any]) -> Note | None:
    """The Event of a deployment that has become open to everybody."""
    old, new = (_of_type(status, Condition.EXPOSED) for status in (before, after))
    return Note("Warning", new["reason"], new["message"]) if new and not old else None


def of_page(before: dict[str, Any], after: dict[str, Any]) -> Note | None:
    """The Event of a page in pods of its own that does not answer; that it starts and answers the status tells."""
    old, new = (_of_type(status, Condition.PAGE_AVAILABLE) for status in (before, after))
    if not new or new.get("reason") == old.get("reason") or new["reason"] in QUIET | NORMAL:
        return None
    return _note(new)


def of_publication(before: dict[str, Any], after: dict[str, Any]) -> Note | None:
    """The Event of an output that lies at every place now, or is not taken."""
    old, new = (_of_type(status, Condition.PUBLISHED) for status in (before, after))
    if not new or new.get("reason") == old.get("reason") or new["reason"] in QUIET:
        return None
    return _note(new)


def of_outage(before: dict[str, Any], after: dict[str, Any], exit: Exit | None) -> Note | None:
    """The Event of an API server that is not available for long: one, when the status begins to tell."""
    if not isinstance(exit, Unavailable) or exit.message in str(ready(before).get("message")):
        return None
    return Note("Warning", exit.reason, exit.message) if exit.message in str(ready(after).get("message")) else None


def of_exit(exit: Exit) -> Note:
    """The Event of what no status can tell."""
    return Note("Warning", exit.reason, exit.message)


def of_completion(status: dict[str, Any], now: datetime) -> Note | None:
    """The Event of an end that is so recent that it may not have been told yet."""
    ended = status.get("completionTime")
    return _note(ready(status)) if ended and now - parse_time(ended) < RECENT else None


def _note(state: dict[str, Any]) -> Note:
    kind: Literal["Normal", "Warning"] = "Normal" if state["reason"] in NORMAL else "Warning"
    return Note(kind, state["reason"], state.get("message") or state["reason"])


async def record(kube: Kube, identity: str, resource: Resource, note: Note, once: str | None) -> None:
    """An Event that cannot be written is worth a line in the log, no more: the status has it all."""
    try:
        await kube.create(EVENTS, event(identity, resource, note, datetime.now(UTC), once))
    except (ApiError, Unreachable) as error:
        if isinstance(error, ApiError) and error.reason == "AlreadyExists":
            return  # told before, perhaps by the operator before this one
        log.warning("%s %s/%s: no Event: %s", resource.kind, resource.metadata.namespace, resource.metadata.name, error)


def event(identity: str, resource: Resource, note: Note, now: datetime, once: str | None = None) -> dict[str, Any]:
    """In the resource's namespace, by a name that a second try shares: at the same moment, or of the same end. ``once``: what that is,
    of an Event that is to be told a single time."""
    metadata = resource.metadata
    stamp = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    digest = hashlib.sha256(f"{metadata.uid}{note}{once or stamp}".encode()).hexdigest()[:16]
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"name": f"{metadata.name}.{digest}", "namespace": metadata.namespace},
        "eventTime": stamp,
        "reportingController": CONTROLLER,
        "reportingInstance": identity[:128],
        "action": "Reconcile",
        "type": note.type,
        "reason": note.reason,
        "note": fitted(note.message, NOTE_LIMIT, size=lambda text: len(text.encode())),
        "regarding": {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "namespace": metadata.namespace,
            "name": metadata.name,
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
        },
    }


def ready(status: dict[str, Any]) -> dict[str, Any]:
    return _of_type(status, Condition.READY)


def _of_type(status: dict[str, Any], kind: Condition) -> dict[str, Any]:
    conditions = status.get("conditions") or []
    return next((each for each in conditions if each["type"] == kind), {})
