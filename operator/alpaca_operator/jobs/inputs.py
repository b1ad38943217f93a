"""Pure: what a job reads of what other jobs make: found out once, when it starts."""

from __future__ import annotations

from alpaca_operator.api.chain import Find, Select, cycle, links, noted
from alpaca_operator.api.resource import Job
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.objects import Object
from alpaca_operator.inputs import InputResolution, Inputs, MissingInput, look, readable, worst


def resolve(job: Job, child: Object | None, find: Find, select: Select) -> InputResolution:
    """As the status and the plan take it."""
    return InputResolution(*gather(job, child, find))


def gather(resource: Job, child: Object | None, find: Find) -> tuple[Inputs, MissingInput | None]:
    """Every input that another job makes, and what keeps those from being all."""
    wanted = list(links(resource))
    if not wanted:
        return {}, None
    found = dict(pinned(resource, child))
    all_missing = []
    for link in wanted:
        if link.field not in found:
            result = look(link, resource, find)
            if isinstance(result, MissingInput):
                all_missing.append(result)
            else:
                found[link.field] = result
    if all_missing and (circle := cycle(resource, readable(find))):
        all_missing.append(
            MissingInput(
                Reason.CYCLE_DETECTED,
                f"waits for itself ({' → '.join(circle)}): delete one of these jobs, and create it without that from",
            )
        )
    return found, worst(all_missing)


def pinned(resource: Job, child: Object | None) -> Inputs:
    """What was found at the start: the status has it, and before that the child."""
    recorded = (resource.status and resource.status.resolved_inputs) or {}
    # Written with the child itself, what was found cannot be lost between two writes.
    of_child = noted((child or {}).get("metadata", {}).get("annotations") or {})
    return of_child | {field: found for field, found in recorded.items() if found.producer_uid}
