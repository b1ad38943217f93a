"""Adapters that are put on the model, and taken from it, while it answers: as a list in a file says."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import ListedAdapter
from workloads.errors import SpecError
from workloads.models.model_request import InspectedModel
from workloads.serving.adapter_list import Follower
from workloads.serving.engine import loading
from workloads.serving.engine.loading import LoadedBase, PreparedAdapter
from workloads.serving.engine.model_specs import ModelSpec
from workloads.serving.engine.queueing import Watcher
from workloads.serving.engine.scheduler import Scheduler
from workloads.serving.engine.served_model import ServedModel
from workloads.serving.engine.server import Engine
from workloads.storage.sources import Inputs
from workloads.system import memory
from workloads.system.environment import Environment

MIB = 2**20

log = logging.getLogger(__name__)


class LiveAdapters(Follower):
    """Those of the first model of a spec."""

    def __init__(
        self,
        job: ChatDeployment,
        environment: Environment,
        path: Path,
        engine: Engine,
        say: Callable[[str], None],
    ) -> None:
        """``path``: of the list. ``say`` takes what happens to them, a line each."""
        super().__init__(environment, path, say)
        self._job, self._engine = job, engine
        self._leaving: list[ServedModel] = []
        """Removed, and perhaps still answering."""
        self._sizes: dict[int, int] = {}
        """Positions that each place takes."""

    def load(self, watcher: Watcher, note: Callable[[str], None]) -> dict[str, ServedModel]:
        """All models, with the adapters that are listed now; ready to answer. Raises WorkloadError for what is wrong with the others."""
        self._listed = self._file.read()
        self._engine.coming = self._coming

        def adapters_of(spec: ModelSpec, inputs: Inputs, base: InspectedModel) -> list[PreparedAdapter]:
            prepared = []
            for each in [] if spec.prefix else self._listed:
                try:
                    prepared.append(self._prepared(each, spec, inputs, base))
                except Exception as error:  # noqa: BLE001 - whatever is wrong with one adapter, the others are served
                    self._refuse(each.name, error)
            return prepared

        models, bases = loading.load_bases(self._job, self._environment, watcher, note, adapters_of, self._refuse)
        self._base: LoadedBase = bases[0]
        self._on = {each.name: each for each in self._listed if each.name in models.keys() - self._engine.names}
        # What was there before memory was measured took nothing from conversations.
        self._sizes = {served.adapter: 0 for served in models.values() if served.adapter is not None}
        self._places = itertools.count(len(self._listed))
        self._tried_at = time.monotonic()
        return models

    async def _is_reached(self) -> bool:
        return True

    async def _put_on(self, listed: ListedAdapter) -> bool:
        place = next(self._places)
        prepared = await asyncio.to_thread(self._prepared, listed, self._base.spec, self._base.inputs, self._base.model)
        if not await asyncio.to_thread(self._is_worn, place, prepared):
            return False
        served = self._base.worn(place, prepared)
        before = self._engine.models.get(listed.name)
        self._engine.models[listed.name] = served
        if before is not None:
            self._leave(before)
        self._engine.metrics.loaded(served.name, served.kind, served.digest)
        return True

    def _take_off(self, name: str) -> None:
        self._leave(self._engine.models.pop(name))

    def _leave(self, served: ServedModel) -> None:
        self._engine.metrics.unloaded(served.name, served.kind, served.digest)
        self._leaving.append(served)

    async def _tidy(self) -> None:
        self._leaving = [served for served in self._leaving if not await self._is_dropped(served)]

    def _tell(self) -> None:
        self._engine.metrics.adapters_refused(self._refused)
        self._engine.coming = self._coming

    def _prepared(
        self, listed: ListedAdapter, spec: ModelSpec, inputs: Inputs, base: InspectedModel
    ) -> PreparedAdapter:
        """Raises for one that is refused."""
        field, source = self._found(listed, self._engine.names)
        return loading.prepare(self._job, spec, inputs, base, listed.name, field, source)

    def _is_worn(self, place: int, prepared: PreparedAdapter) -> bool:
        """Whether it is on the model now; not where the engine stops. Raises for one that is refused."""
        base, adapter = self._base, prepared.adapter
        scheduler = base.served.scheduler
        assert isinstance(scheduler, Scheduler)
        positions = base.positions(adapter.size)

        def put_on() -> None:
            self._must_have_room(adapter.name, adapter.size, scheduler.positions - positions)
            base.found.put_on(place, adapter.source, base.model.request.uri)
            scheduler.changed(-positions)

        try:
            scheduler.between_steps(put_on).result()
        except CancelledError:  # the engine stops
            return False
        self._sizes[place] = positions
        return True

    def _must_have_room(self, name: str, size: int, left: int) -> None:
        """Raises SpecError where it would take what conversations were promised."""
        context = self._base.served.context
        device = self._base.found.model.device
        if device.type == "cuda":
            import torch

            free = torch.cuda.mem_get_info(device)[0]
        else:
            free = memory.available()
        if left < context or size > free:
            raise SpecError(
                f"adapter {name} needs {size / MIB:.1f} MiB, which would leave room for {max(0, left)} tokens of conversations, and one may have "
                f"{context} ({free / MIB:.0f} MiB are free): remove another adapter, raise pod.resources.limits, or set load.bits"
            )

    async def _is_dropped(self, served: ServedModel) -> bool:
        """Whether nobody is answered by it any more, and its memory is given back."""
        if served.users:
            return False
        place, scheduler = served.adapter, served.scheduler
        assert place is not None
        assert isinstance(scheduler, Scheduler)

        def take_off() -> None:
            self._base.found.take_off(place)
            scheduler.changed(self._sizes.pop(place), without=place)

        try:
            await asyncio.wrap_future(scheduler.between_steps(take_off))
        except Exception:
            log.exception("adapter %s stays in memory", served.name)
            return True
        self._say(f"adapter {served.name} is dropped: nobody is answered by it any more")
        return True
