"""The outcomes of a reconcile that are no bugs. Anything else that is raised is logged once, with its traceback, by the worker."""

from __future__ import annotations


class ApiError(Exception):
    """The API server answered with an error. ``reason`` is the Status object's, such as ``NotFound``; ``retry_after`` the seconds that it
    asks to wait."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float = 0.0):
        super().__init__(f"{status} {reason}: {message}" if reason else f"{status}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class Unreachable(Exception):
    """The API server did not answer: refused, reset, or too late."""


class NotLeading(Exception):
    """A write was about to be made without a valid Lease; another replica may be the one that works now."""


class Rewound(Exception):
    """The API server holds an older state than one that was read of it before: its etcd was restored. What is known is of no more use,
    for an older state never replaces a newer one; the process ends and starts afresh."""
