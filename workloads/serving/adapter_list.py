"""Adapters that come and go while a model answers: as a list in a file says, whatever it is that they are put on.

One that cannot be served is refused by name, and all others are served. One that is removed is asked no more, and is dropped when the last
that it answers has its answer.
"""

from __future__ import annotations

import abc
import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from alpaca_operator.api.contract import AdapterList, ListedAdapter
from alpaca_operator.api.sources import AdapterSource
from alpaca_operator.api.status import ResolvedInput
from workloads.errors import InputError, SpecError, WorkloadError
from workloads.runtime import exits
from workloads.storage import sources
from workloads.storage.hashing import HashCache
from workloads.storage.sources import Input, Inputs
from workloads.system.environment import Environment

LOOK_SECONDS = 1.0
"""Between two looks at the file."""
RETRY_SECONDS = 30.0
"""After which one that was refused is tried again: what was missing may be there by then."""

log = logging.getLogger(__name__)


class ListFile:
    """The list as it stands."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text: str | None = None

    def read(self) -> list[ListedAdapter]:
        """Raises InputError for what is no list."""
        try:
            self._text = self._path.read_text(encoding="utf-8")
            return AdapterList.model_validate_json(self._text).adapters if self._text.strip() else []
        except (OSError, ValueError) as error:
            raise InputError(f"{self._path}: the list of adapters cannot be read ({error})") from error

    def has_changed(self) -> bool:
        """Whether it says something else than when it was read last. Of one that is gone for a moment, as the kubelet exchanges it, it is
        not known yet."""
        try:
            return self._path.read_text(encoding="utf-8") != self._text
        except OSError:
            return False


class Follower(abc.ABC):
    """Keeps what is served as the list says. How an adapter is put on the model, and taken from it, is what engines differ in."""

    def __init__(self, environment: Environment, path: Path, say: Callable[[str], None]) -> None:
        """``path``: of the list. ``say`` takes what happens to them, a line each."""
        self._environment, self._say = environment, say
        self._file = ListFile(path)
        self._hashes = HashCache(environment.cache / "digests.json", lambda: None)
        self._listed: list[ListedAdapter] = []
        self._on: dict[str, ListedAdapter] = {}
        """Those that are served, by their names."""
        self._refused: dict[str, str] = {}
        self._tried_at = 0.0

    @abc.abstractmethod
    async def _is_reached(self) -> bool:
        """Before each pass: whether what serves can be told anything. What it has lost is in ``_on`` no more."""

    @abc.abstractmethod
    async def _put_on(self, listed: ListedAdapter) -> bool:
        """Serve it, in the place of what was served by its name. False where that could not be tried: it is, with the next pass. Raises
        for one that cannot be served."""

    @abc.abstractmethod
    def _take_off(self, name: str) -> None:
        """Ask it no more."""

    @abc.abstractmethod
    async def _tidy(self) -> None:
        """After each pass: drop those that nobody is answered by any more."""

    @abc.abstractmethod
    def _tell(self) -> None:
        """Show whoever asks what is coming, and what is refused."""

    @property
    def _coming(self) -> frozenset[str]:
        """Names of those that are loaded, or will be."""
        return frozenset({each.name for each in self._listed} - self._on.keys() - self._refused.keys())

    async def follow(self) -> None:
        """The list, until cancelled."""
        self._tell()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            is_reached = await self._is_reached()
            if not await asyncio.to_thread(self._file.has_changed) or await self._read():
                await self._pass(is_reached)
            await self._tidy()

    async def _pass(self, is_reached: bool) -> None:
        again = time.monotonic() - self._tried_at >= RETRY_SECONDS
        wanted = {each.name: each for each in self._listed}
        for name in self._on.keys() - wanted.keys():
            self._say(f"adapter {name} is removed, and asked no more")
            del self._on[name]
            self._take_off(name)
        self._refused = {name: why for name, why in self._refused.items() if name in wanted}
        for name, each in wanted.items():
            if is_reached and self._on.get(name) != each and (name not in self._refused or again):
                await self._try(each)
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

    async def _try(self, listed: ListedAdapter) -> None:
        try:
            if not await self._put_on(listed):
                return
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one adapter, the others are served
            self._refuse(listed.name, error)
            return
        self._on[listed.name] = listed
        self._refused.pop(listed.name, None)
        self._say(f"adapter {listed.name} answers: {listed.uri}")

    def _found(self, listed: ListedAdapter, taken: Iterable[str]) -> tuple[str, Input]:
        """The field that messages name it by, and where it lies. Slow where it has to be fetched: it belongs on a thread. Raises
        WorkloadError for one by a name of ``taken``, one that is not there, and one that is another than its job made."""
        field = f"adapters[{listed.name}]"
        if listed.name in taken:
            raise SpecError(f"adapter {listed.name} has the name of a model that is served: give it another")
        source = sources.find(AdapterSource(uri=listed.uri), field, self._environment, self._hashes, lambda: None)
        self._hashes.save()
        published = {field: ResolvedInput(uri=listed.uri, digest=listed.digest)}
        sources.must_be_as_published(Inputs({field: source}), published)
        return field, source

    def _refuse(self, name: str, error: Exception) -> None:
        known = exits.explain(error)
        if not isinstance(error, WorkloadError):
            log.error("adapter %s", name, exc_info=error)
        if self._refused.get(name) != str(known):
            self._say(f"adapter {name} is refused: {known}")
        self._refused[name] = str(known)
