"""The time, as it is written down."""

from __future__ import annotations

import datetime


def now() -> str:
    """The time in UTC, in RFC 3339 with microseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
