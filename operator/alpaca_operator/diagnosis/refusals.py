"""Pure: what the API server answers to a write, told in one line with what to do."""

from __future__ import annotations

import re

from alpaca_operator.api.status import Reason
from alpaca_operator.diagnosis.text import one_line
from alpaca_operator.errors import ApiError, Unreachable
from alpaca_operator.exits import Exit, NamespaceGoing, Refused, Unavailable, Waiting

QUOTA = re.compile(r"exceeded quota: (?P<quota>[^,]+), (?P<figures>requested: .*)")
QUOTA_UNCOUNTED = re.compile(r"status unknown for quota: (?P<quota>[^,]+)")
QUOTA_WANTS = re.compile(r"failed quota: (?P<quota>[^:]+): must specify (?P<what>.*)")
POLICIES = (
    re.compile(r"ValidatingAdmissionPolicy '(?P<who>[^']+)'.*? denied request: (?P<why>.*)", re.DOTALL),
    re.compile(r'admission webhook "(?P<who>[^"]+)" denied the request: (?P<why>.*)', re.DOTALL),
    re.compile(r"(?P<who>violates PodSecurity) (?P<why>.*)", re.DOTALL),
)


NO_RIGHT = re.compile(r"cannot (?P<verb>\w+) resource")
GOING = re.compile(r"in namespace (?P<which>\S+) because it is being terminated")


def refusal(code: int, message: str, *, again: str = " in a job of another name") -> Exit | None:
    """What a 4xx answer to the creation of a child or its pod means for the user, by the API server's own words. ``again``: how a
    spec is changed; a deployment's is changed in place.

    None for what is not the user's to mend: an outage, a namespace that is going, a bug of ours.
    """
    if code == 409 and "already exists" in message:
        return Refused(
            Reason.NAME_CONFLICT,
            f"its child's name is taken ({one_line(message)}, and belongs to something else): delete that, or use a job of another name",
        )
    if found := QUOTA.search(message):
        return Waiting(
            Reason.QUOTA_EXCEEDED,
            f"quota {found['quota']} has no room ({one_line(found['figures'])}): lower pod.resources, wait for other jobs "
            "to end, or ask for a larger quota",
        )
    if found := QUOTA_UNCOUNTED.search(message):
        return Waiting(Reason.QUOTA_EXCEEDED, f"quota {found['quota']} has not been counted yet: tried again by itself")
    if found := QUOTA_WANTS.search(message):
        what = one_line(found["what"])
        return Waiting(Reason.QUOTA_EXCEEDED, f"quota {found['quota']} counts {what}: set them in pod.resources")
    for policy in POLICIES:
        if found := policy.search(message):
            who = "PodSecurity" if "PodSecurity" in found["who"] else f"admission policy {found['who']}"
            why = one_line(found["why"]).rstrip(".")
            return Refused(
                Reason.ADMISSION_REFUSED,
                f"{who} refuses the pod: {why}: change pod{again}, or ask who set the policy",
            )
    if code == 403 and (found := NO_RIGHT.search(message)):
        return Refused(
            Reason.ADMISSION_REFUSED,
            f"the operator has no right to {found['verb']} it ({one_line(message)}): apply manifests/rbac",
        )
    if GOING.search(message):
        return None
    if code == 403:
        return Refused(
            Reason.ADMISSION_REFUSED,
            f"the API server refuses the pod: {one_line(message)}: make what it asks for, or change pod{again}",
        )
    if code == 422:
        return Refused(
            Reason.INVALID_SPEC,
            f"the API server refuses the pod: {one_line(message)}: correct pod{again}",
        )
    return None


WEBHOOK_DOWN = re.compile(
    r'failed calling (admission )?webhook "(?P<who>[^"]+)"'
    r'(.*? (Post|Get) "https://(?P<service>[-a-z0-9]+)\.(?P<namespace>[-a-z0-9]+)\.svc[:/.])?'
)
"""The name seldom says whose it is; its Service does."""
UNTYPED = "failed to create typed patch object"
"""Of an apply whose object the API server cannot read: it answers with a 500, whatever the field."""
BUSY = frozenset({401, 403, 408, 425, 429})
"""Of the client's errors those that pass: a token is renewed, too many requests become fewer."""


def exit_of(
    error: ApiError | Unreachable, *, again: str = " in a job of another name", what: str = "its child"
) -> Exit | None:
    """What an answer of the API server to a write of ``what``, or none, makes of the reconcile.

    None for a write that crossed another: it is tried again at once, with everything read anew.
    """
    if isinstance(error, Unreachable):
        return Unavailable(
            Reason.API_SERVER_UNAVAILABLE,
            f"the API server does not answer ({one_line(str(error))}): tried again by itself",
        )
    if down := _webhook_down(error.message):
        return Unavailable(Reason.API_SERVER_UNAVAILABLE, down, error.retry_after)
    if refused := refusal(error.status, error.message, again=again):
        return refused
    if error.status == 409:
        return None
    if found := GOING.search(error.message):
        return NamespaceGoing(
            Reason.STOPPING,
            f"namespace {found['which']} is being deleted, and nothing is made in it any more; where it stays, kubectl get namespace "
            f"{found['which']} -o yaml shows what holds it",
        )
    unread = error.status == 400 or UNTYPED in error.message
    if not unread and (error.status >= 500 or error.status in BUSY):
        message = f"the API server cannot take {what} now ({one_line(str(error))}): tried again by itself"
        return Unavailable(Reason.API_SERVER_UNAVAILABLE, message, error.retry_after)
    if unread:
        return Refused(
            Reason.INVALID_SPEC,
            f"the API server does not understand its child ({one_line(error.message)}): correct pod{again}",
        )
    return Refused(
        Reason.NOT_ACCEPTED,
        f"the API server does not take its child ({one_line(str(error))}): make what it asks for, or change pod{again}",
    )


FORMS = {" is forbidden: ": 403, " is invalid: ": 422}
"""How the API server words its refusals."""


def exit_of_report(words: str, *, again: str = " in a job of another name") -> Exit | None:
    """The same of what a controller passes on when it cannot make a pod: the API server's words, without its code. What is no refusal by
    these words passes: the controller tries again by itself."""
    if GOING.search(words):
        return None
    if down := _webhook_down(words):
        return Waiting(Reason.API_SERVER_UNAVAILABLE, down)
    code = next((code for form, code in FORMS.items() if form in words), 0)
    if found := refusal(code, words, again=again):
        return found
    message = f"the API server does not take the pod now ({one_line(words)}): tried again by itself"
    return Waiting(Reason.API_SERVER_UNAVAILABLE, message)


def exit_of_status(error: ApiError | Unreachable) -> Exit | None:
    """What an answer to the status itself makes of it. None for a write that crossed another."""
    if isinstance(error, ApiError) and error.status == 409:
        return None
    found = exit_of(error, what="the status")
    if isinstance(found, Unavailable | NamespaceGoing):
        return found
    return Refused(Reason.NOT_ACCEPTED, f"the API server does not take all of the status ({one_line(str(error))})")


def _webhook_down(message: str) -> str | None:
    down = WEBHOOK_DOWN.search(message)
    if down is None:
        return None
    where = f" (Service {down['service']} of namespace {down['namespace']})" if down["service"] else ""
    return f"admission webhook {down['who']}{where} does not answer the API server: ask who keeps it; tried again by itself"
