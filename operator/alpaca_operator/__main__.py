"""The operator: ``python -m alpaca_operator``. Settings are environment variables; ``--help`` lists them.

Ends with 0 when it was told to stop, 1 when it lost the Lease or a watch failed, 2 when a setting is wrong or there is
no way to the API server.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from typing import Any

import kopf
from kubernetes.aio.config import ConfigException

from alpaca_operator import logs, probes
from alpaca_operator.cluster import watches
from alpaca_operator.cluster.budget import WriteBudget
from alpaca_operator.cluster.kube import Kube, wait_for_kinds
from alpaca_operator.cluster.leader import LeaderElector
from alpaca_operator.cluster.optional import OptionalWatch
from alpaca_operator.cluster.resources import JOB_SETS
from alpaca_operator.cluster.resync import Resync
from alpaca_operator.errors import ApiError, Unreachable
from alpaca_operator.polling.events import EventReader
from alpaca_operator.polling.pods import AT_ONCE, READS_PER_SECOND, Scraper
from alpaca_operator.polling.schedule import ReadBudget
from alpaca_operator.polling.workloads import WorkloadReader
from alpaca_operator.reconcile import run_workers
from alpaca_operator.settings import SettingError, Settings, describe
from alpaca_operator.world import World

log = logging.getLogger("alpaca_operator")

EXIT_FAILED = 1
CRD_POLL_SECONDS = 2.0
RETRY_SECONDS = 1.0
DRAIN_SECONDS = 3.0
"""What each part gets to come to its end when the operator is told to stop."""


class Operator:
    """The parts, and the order in which they start and stop."""

    def __init__(self, settings: Settings, kube: Kube) -> None:
        self.settings = settings
        self.elector = LeaderElector(kube, settings)
        kube.may_write = self.elector.check
        budget = WriteBudget(settings.progress_writes_per_second, settings.progress_write_seconds)
        self.world = World(settings, kube, budget=budget)
        self.resync = Resync(settings, kube, self.world.store, self.world.queue)
        self.job_sets = OptionalWatch(JOB_SETS, settings, kube, self.world.store, self.world.queue)
        reads = ReadBudget(READS_PER_SECOND, AT_ONCE)
        self.scraper = Scraper(settings, kube, self.world.store, self.world.queue, self.world.scrapes, reads)
        self.events = EventReader(self.world.queue, self.world.without_pods, reads, kube)
        self.workloads = WorkloadReader(self.world.queue, self.world.in_queues, reads, kube)
        self.synced = asyncio.Event()
        self.stop = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; raises what a part of it raised."""
        self._listen_for_signals()
        async with probes.serve(
            self.settings.port,
            health=self._health,
            readiness=lambda: "" if self.synced.is_set() else "not everything has been read yet",
            store=self.world.store,
            depth=lambda: len(self.world.queue),
        ):
            work = asyncio.create_task(self._work(), name="work")
            elector = asyncio.create_task(self.elector.run(), name="elector")
            watches = asyncio.create_task(self._watch(), name="watches")
            stop = asyncio.create_task(self.stop.wait(), name="stop")
            done, _ = await asyncio.wait({work, elector, watches, stop}, return_when=asyncio.FIRST_COMPLETED)
            # First the work, then the Lease, so that a successor starts at once; the watches close at leisure.
            await _end(work, elector)
            await self.elector.release()
            await _end(watches)
            for part in done:
                part.result()

    async def _work(self) -> None:
        await wait_for_kinds(self.world.kube, CRD_POLL_SECONDS, log.warning)
        await self._sync()
        await self.elector.leading.wait()
        for key in self.world.store.resources():
            self.world.queue.add(key, ahead=self.world.store.is_new(key))
        async with asyncio.TaskGroup() as group:
            group.create_task(run_workers(self.world), name="workers")
            group.create_task(self.scraper.run(), name="scraper")
            group.create_task(self.events.run(), name="events")
            group.create_task(self.workloads.run(), name="workloads")
            group.create_task(self.resync.run(), name="resync")

    async def _sync(self) -> None:
        while not self.synced.is_set():
            try:
                await self.resync.list_all()
                self.synced.set()
            except (ApiError, Unreachable) as error:
                log.warning("not everything could be read, tried again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _watch(self) -> None:
        # kopf brings everything once more as it starts, which would only delay the first reconciles.
        await self.synced.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_by_kopf(), name="kopf's watches")
            group.create_task(self.job_sets.run(), name="watch of JobSets")

    async def _watch_by_kopf(self) -> None:
        ours = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=watches.registry(self.world.store, self.world.queue, self.world.kube.reread),
            settings=watches.settings(),
            clusterwide=not self.settings.namespaces,
            namespaces=self.settings.namespaces,
        )
        self._listen_for_signals()  # kopf has put its own handlers in place, which would end the watches before the work
        running = asyncio.create_task(kopf.run_tasks(tasks, ignored=ours), name="kopf")
        try:
            done, _ = await asyncio.wait({running, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            running.cancel()
            await asyncio.wait([running], timeout=DRAIN_SECONDS)

    def _health(self) -> str:
        return f"watches that bring nothing: {', '.join(self.resync.stalled)}" if self.resync.stalled else ""

    def _listen_for_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stop.set)


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=DRAIN_SECONDS)


def _handle_loop_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """kopf's watches that are cancelled while they read do not close cleanly, and asyncio tells it at the very end, when nothing reads
    from them any more: no traceback for an orderly stop. Everything else is told as always."""
    if "asyncgen" in context:
        log.debug("%s", context["message"])
    else:
        loop.default_exception_handler(context)


async def serve(settings: Settings) -> None:
    asyncio.get_running_loop().set_exception_handler(_handle_loop_exception)
    kube = await Kube.connect()
    try:
        await Operator(settings, kube).run()
    except Exception:
        log.exception("the operator ends")
        # By now the Lease is released. What is left are kopf's tasks, which take more than ten seconds to end when a watch failed.
        os._exit(EXIT_FAILED)
    finally:
        await kube.close()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m alpaca_operator",
        description="Turns the resources of literary-alpaca.io into pods.",
        epilog="environment:\n" + describe(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    try:
        settings = Settings.from_environment()
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    logs.set_up(settings.log_format, settings.log_level)
    try:
        asyncio.run(serve(settings))
    except ConfigException as error:
        log.error("no way to the API server: %s: set KUBECONFIG, or run in a cluster", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
