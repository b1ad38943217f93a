"""Which replica works: the holder of a Lease. The others watch, and stand ready.

A holder writes only while it can be sure that nobody else holds the Lease (``check``), by its own monotonic clock, counted from
before its last renewal was sent. It gives the Lease up on an orderly stop, and ends the process at once when it loses it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from alpaca_operator import metrics
from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.resources import LEASES
from alpaca_operator.errors import ApiError, NotLeading, Unreachable
from alpaca_operator.settings import Settings

log = logging.getLogger(__name__)

EXIT_LOST = 1


def end_process() -> None:
    """Without unwinding: whatever waits for its turn to write must not get it."""
    os._exit(EXIT_LOST)


class LeaderElector:
    """``clock`` counts seconds; ``lost`` is called when the Lease is lost, and does not return."""

    def __init__(
        self,
        kube: Kube,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        lost: Callable[[], None] = end_process,
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._clock = clock
        self._lost = lost
        self._lease: dict[str, Any] | None = None
        self._observed_at = 0.0
        self._valid_until = 0.0
        self._failing = False
        self.leading = asyncio.Event()

    def check(self) -> None:
        """Raises NotLeading. Called before each write; the tenth of the lease that is kept back covers the write's own way."""
        if self._clock() >= self._valid_until - self._settings.lease_seconds / 10:
            raise NotLeading(f"the Lease {self._settings.lease_name} is not held")

    async def run(self) -> None:
        """Waits for the Lease, then keeps it until cancelled."""
        while True:
            pause = await self.try_once()
            await asyncio.sleep(pause)

    async def try_once(self) -> float:
        """Acquires or renews; the seconds after which to do so again."""
        renew = self._settings.renew_seconds
        pause = renew if self.leading.is_set() else renew / 2
        try:
            async with asyncio.timeout(renew):
                await self._acquire_or_renew()
            self._failing = False
        except (ApiError, Unreachable, TimeoutError) as error:
            level = logging.DEBUG if self._failing else logging.WARNING  # once, not at every try
            log.log(level, "the Lease could not be read or written: %s", str(error) or "no answer in time")
            pause, self._failing = renew / 4, True
        if self.leading.is_set() and self._clock() >= self._valid_until - self._settings.lease_seconds / 5:
            log.error("the Lease %s is lost: it could not be renewed in time", self._settings.lease_name)
            self._lost()
        return pause

    async def release(self) -> None:
        """Gives the Lease up, so that a successor need not wait for its end."""
        if not self.leading.is_set() or self._lease is None:
            return
        self.leading.clear()
        self._valid_until = 0.0
        metrics.LEADING.set(0)
        try:
            async with asyncio.timeout(self._settings.renew_seconds):
                await self._kube.replace(LEASES, self._body(self._lease, holder=""), fenced=False)
        except (ApiError, Unreachable, TimeoutError) as error:
            log.warning(
                "the Lease was not released, a successor waits for its end: %s", str(error) or "no answer in time"
            )

    async def _acquire_or_renew(self) -> None:
        settings, now = self._settings, self._clock()
        if not self.leading.is_set():
            found = await self._kube.get(LEASES, settings.operator_namespace, settings.lease_name)
            if found is None:
                self._acquired(await self._kube.create(LEASES, self._body(None, settings.identity), fenced=False), now)
                return
            self._observe(found, now)
            if not self._is_free(found, now):
                return
        try:
            self._acquired(
                await self._kube.replace(LEASES, self._body(self._lease, settings.identity), fenced=False),
                now,
            )
        except ApiError as error:
            if error.status != 409:
                raise
            if self.leading.is_set():
                await self._recheck_after_conflict()

    async def _recheck_after_conflict(self) -> None:
        """Someone else wrote the Lease. Ours may have been the write that got no answer; another holder means that it is lost."""
        found = await self._kube.get(LEASES, self._settings.operator_namespace, self._settings.lease_name)
        if found is None or found["spec"].get("holderIdentity") != self._settings.identity:
            log.error("the Lease %s is lost: %s holds it", self._settings.lease_name, holder_of(found) or "nobody")
            self._lost()
        self._lease = found

    def _observe(self, found: dict[str, Any], now: float) -> None:
        if self._lease is None or self._lease["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
            self._observed_at = now
        self._lease = found

    def _is_free(self, found: dict[str, Any], now: float) -> bool:
        """Released, left by this pod's own last container, or silent for its whole duration by our clock (clocks of two
        machines are not compared)."""
        return holder_of(found) == self._settings.identity or not is_held(found, now - self._observed_at)

    def _acquired(self, lease: dict[str, Any], asked_at: float) -> None:
        self._lease = lease
        self._valid_until = asked_at + self._settings.lease_seconds
        if not self.leading.is_set():
            log.info("%s holds the Lease %s and works", self._settings.identity, self._settings.lease_name)
            metrics.LEADING.set(1)
            self.leading.set()

    def _body(self, current: dict[str, Any] | None, holder: str) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict(current["spec"]) if current else {}
        if spec.get("holderIdentity") != holder:
            spec |= {"acquireTime": now, "leaseTransitions": spec.get("leaseTransitions", 0) + bool(current and holder)}
        spec |= {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(self._settings.lease_seconds)) if holder else 1,
            "renewTime": now,
        }
        metadata = {"name": self._settings.lease_name, "namespace": self._settings.operator_namespace}
        if current:
            metadata["resourceVersion"] = current["metadata"]["resourceVersion"]
        return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}


def holder_of(lease: dict[str, Any] | None) -> str:
    return str(lease["spec"].get("holderIdentity") or "") if lease else ""


def is_held(lease: dict[str, Any], quiet: float) -> bool:
    """Whether somebody holds a Lease that has stood as it does for ``quiet`` seconds, by our own clock."""
    return bool(holder_of(lease)) and quiet < float(lease["spec"].get("leaseDurationSeconds") or 0)
