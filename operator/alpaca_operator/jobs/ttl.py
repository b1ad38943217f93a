"""Pure: until when the pods of a job are kept once it has ended."""

from __future__ import annotations

from datetime import datetime, timedelta

from alpaca_operator.api.resource import Job
from alpaca_operator.cluster.objects import parse_time


def ttl_end(resource: Job) -> datetime | None:
    """None for as long as the job itself, or where it has not ended."""
    ttl, status = resource.spec.ttl_seconds_after_finished, resource.status
    if ttl is None or status is None or status.completion_time is None:
        return None
    return parse_time(status.completion_time) + timedelta(seconds=ttl)
