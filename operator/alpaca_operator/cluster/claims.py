"""Which operator works on a resource, where several look at the same ones: one on a laptop beside an installation, one for a namespace
beside one for the cluster.

A Lease keeps the replicas of one installation apart; of another installation's Lease it knows nothing. So the resource itself says who
works on it (``status.operator``), and an operator leaves alone what another has taken up for as long as somebody holds that one's
Lease. What was left behind is taken up by whoever looks next: first its name is written, and then anything else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.leader import holder_of, is_held
from alpaca_operator.cluster.objects import Object
from alpaca_operator.cluster.resources import LEASES
from alpaca_operator.errors import ApiError
from alpaca_operator.settings import Settings

ASK_AGAIN_SECONDS = 5.0
"""However many resources name a Lease, it is read no more often."""
LEFT_BEHIND_AFTER = 4
"""Times that a holder may be silent: an installation whose replica is being replaced does not lose its resources to a passer-by."""


@dataclass(frozen=True, slots=True)
class Other:
    """An operator that works on what this one looks at too."""

    lease: str
    """``namespace/name``."""
    holder: str
    """Who holds it; empty where this operator may not read it."""

    def __str__(self) -> str:
        return f"operator {self.holder} (Lease {self.lease})" if self.holder else f"the operator of Lease {self.lease}"


@dataclass(slots=True)
class _Seen:
    """A Lease of another operator. ``found`` is None where this one may not read it."""

    found: dict[str, Any] | None
    asked_at: float
    since: float
    """When it was first seen as it stands, by our own clock."""


class Claims:
    """``clock`` counts seconds."""

    def __init__(self, kube: Kube, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._clock = clock
        self._patience = LEFT_BEHIND_AFTER * settings.lease_seconds
        self._seen: dict[str, _Seen] = {}
        self._reading = asyncio.Lock()
        self.own = f"{settings.operator_namespace}/{settings.lease_name}"
        self.name = Other(self.own, settings.identity)

    async def other(self, resource: Object) -> Other | None:
        """Who else works on the resource. Raises ApiError, Unreachable."""
        claim = claim_of(resource)
        if claim in ("", self.own):
            return None
        async with self._reading:
            known = self._seen.get(claim)
            if known is None or self._clock() >= known.asked_at + ASK_AGAIN_SECONDS:
                await self._look(claim)
        return self._holder(claim)

    def may_write(self, resource: Object) -> bool:
        """Whether nobody else has taken the resource up, by what was last read of it and of the Lease that it names."""
        claim = claim_of(resource)
        return claim in ("", self.own) or (claim in self._seen and self._holder(claim) is None)

    async def _look(self, claim: str) -> None:
        now, known = self._clock(), self._seen.get(claim)
        namespace, _, name = claim.partition("/")
        try:
            found = await self._kube.get(LEASES, namespace, name) or {}
        except ApiError as error:
            if error.status != 403:
                raise
            found = None
        same = known is not None and _version(known.found) == _version(found)
        self._seen[claim] = _Seen(found, now, known.since if known and same else now)

    def _holder(self, claim: str) -> Other | None:
        seen = self._seen[claim]
        if seen.found is None:
            return Other(claim, "")
        if not seen.found:  # deleted with its installation
            return None
        quiet = self._clock() - seen.since
        if quiet < self._patience or is_held(seen.found, quiet):
            return Other(claim, holder_of(seen.found))
        return None


def claim_of(resource: Object) -> str:
    """The Lease of the operator that works on it, as ``namespace/name``; empty where none has yet."""
    return str((resource.get("status") or {}).get("operator") or "")


def _version(lease: dict[str, Any] | None) -> str | None:
    return lease["metadata"]["resourceVersion"] if lease else None
