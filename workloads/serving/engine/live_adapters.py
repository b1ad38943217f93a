"""Adapters that are put on the model, and taken from it, while it answers: as a list in a file says.

One that cannot be served is refused by name, and all others are served. One that is removed is asked no more, and is dropped when the last
that it answers has its answer.
"""

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
from alpaca_operator.api.sources import AdapterSource
from alpaca_operator.api.status import ResolvedInput
from workloads.errors import SpecError, WorkloadError
from workloads.models.model_request import InspectedModel
from workloads.runtime import exits
from workloads.serving.adapter_list import LOOK_SECONDS, RETRY_SECONDS, ListFile
from workloads.serving.engine import loading
from workloads.serving.engine.loading import LoadedBase, PreparedAdapter
from workloads.serving.engine.model_specs import ModelSpec
from workloads.serving.engine.queueing import Watcher
from workloads.serving.engine.scheduler import Scheduler
from workloads.serving.engine.served_model import ServedModel
from workloads.serving.engine.server import Engine
from workloads.storage import sources
from workloads.storage.hashing import HashCache
from workloads.storage.sources import Inputs
from workloads.system import memory
from workloads.system.environment import Environment

MIB = 2**20

log = logging.getLogger(__name__)


class LiveAdapters:
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
        self._job, self._environment, self._engine, self._say = job, environment, engine, say
        self._file = ListFile(path)
        self._hashes = HashCache(environment.cache / "digests.json", lambda: None)
        self._listed: list[ListedAdapter] = []
        self._on: dict[str, ListedAdapter] = {}
        """Those that are served, by their names."""
        self._refused: dict[str, str] = {}
        self._leaving: list[ServedModel] = []
        """Removed, and perhaps still answering."""
        self._sizes: dict[int, int] = {}
        """Positions that each place takes."""
        self._tried_at = 0.0

    def load(self, watcher: Watcher, note: Callable[[str], None]) -> dict[str, ServedModel]:
        """All models, with the adapters that are listed now; ready to answer. Raises WorkloadError for what is wrong with the others."""
        self._listed = self._file.read()
        self._engine.coming = frozenset(each.name for each in self._listed)

        def adapters_of(spec: ModelSpec, inputs: Inputs, base: InspectedModel) -> list[PreparedAdapter]:
            if spec.prefix:
                return []
            tried = [self._prepared(each, spec, inputs, base) for each in self._listed]
            return [prepared for prepared in tried if prepared]

        models, bases = loading.load_bases(self._job, self._environment, watcher, note, adapters_of, self._refuse)
        self._base: LoadedBase = bases[0]
        self._on = {each.name: each for each in self._listed if each.name in models.keys() - self._engine.names}
        # What was there before memory was measured took nothing from conversations.
        self._sizes = {served.adapter: 0 for served in models.values() if served.adapter is not None}
        self._places = itertools.count(len(self._listed))
        self._tried_at = time.monotonic()
        return models

    async def follow(self) -> None:
        """The list, until cancelled."""
        self._tell()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._leaving = [served for served in self._leaving if not await self._dropped(served)]
            if await asyncio.to_thread(self._file.has_changed) and not await self._read():
                continue
            again = time.monotonic() - self._tried_at >= RETRY_SECONDS
            wanted = {each.name: each for each in self._listed}
            for name in self._on.keys() - wanted.keys():
                self._remove(name)
            self._refused = {name: why for name, why in self._refused.items() if name in wanted}
            for name, each in wanted.items():
                if self._on.get(name) != each and (name not in self._refused or again):
                    await self._put_on(each)
            self._tell()
            if again:
                self._tried_at = time.monotonic()

    async def _read(self) -> bool:
        """Whether the list could be read. Until it can, what is served is."""
        before = {each.name: each for each in self._listed}
        try:
            self._listed = await asyncio.to_thread(self._file.read)
        except WorkloadError as error:
            self._say(str(error))
            return False
        for each in self._listed:
            if before.get(each.name) != each:
                self._refused.pop(each.name, None)
        return True

    async def _put_on(self, listed: ListedAdapter) -> None:
        place = next(self._places)
        prepared = await asyncio.to_thread(self._prepared, listed, self._base.spec, self._base.inputs, self._base.model)
        if prepared is None or not await asyncio.to_thread(self._worn, place, prepared):
            return
        served = self._base.worn(place, prepared)
        before = self._engine.models.get(listed.name)
        self._engine.models[listed.name] = served
        if before is not None:
            self._leave(before)
        self._engine.metrics.loaded(served.name, served.kind, served.digest)
        self._on[listed.name] = listed
        self._refused.pop(listed.name, None)
        self._say(f"adapter {listed.name} answers: {listed.uri}")

    def _remove(self, name: str) -> None:
        self._say(f"adapter {name} is removed, and asked no more")
        del self._on[name]
        self._leave(self._engine.models.pop(name))

    def _leave(self, served: ServedModel) -> None:
        self._engine.metrics.unloaded(served.name, served.kind, served.digest)
        self._leaving.append(served)

    def _prepared(
        self, listed: ListedAdapter, spec: ModelSpec, inputs: Inputs, base: InspectedModel
    ) -> PreparedAdapter | None:
        """None for one that is refused."""
        field = f"adapters[{listed.name}]"
        try:
            if listed.name in self._engine.names:
                raise SpecError(f"adapter {listed.name} has the name of a model that is served: give it another")
            source = sources.find(AdapterSource(uri=listed.uri), field, self._environment, self._hashes, lambda: None)
            self._hashes.save()
            published = {field: ResolvedInput(uri=listed.uri, digest=listed.digest)}
            sources.must_be_as_published(Inputs({field: source}), published)
            return loading.prepare(self._job, spec, inputs, base, listed.name, field, source)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one adapter, the others are served
            self._refuse(listed.name, error)
            return None

    def _worn(self, place: int, prepared: PreparedAdapter) -> bool:
        """Whether it could be put on the model."""
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
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(adapter.name, error)
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

    async def _dropped(self, served: ServedModel) -> bool:
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

    def _refuse(self, name: str, error: Exception) -> None:
        known = exits.explain(error)
        if not isinstance(error, WorkloadError):
            log.error("adapter %s", name, exc_info=error)
        if self._refused.get(name) != str(known):
            self._say(f"adapter {name} is refused: {known}")
        self._refused[name] = str(known)

    def _tell(self) -> None:
        self._engine.metrics.adapters_refused(self._refused)
        listed = {each.name for each in self._listed}
        self._engine.coming = frozenset(listed - self._on.keys() - self._refused.keys())
