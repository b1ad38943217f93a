"""Adapters that vLLM is told of while it answers, by its API, as a list in a file says; and told again when it has started anew.

Each is known to vLLM by a name of its content: one that is exchanged is loaded beside the one before, takes over its requests, and only then
is that one dropped. vLLM keys what it remembers of prompts by the adapter's name alone (its `_gen_lora_extra_hash_keys`):
its own exchange (`load_inplace`), and another adapter by the same name, would answer with what the one before has read.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import ListedAdapter
from workloads.errors import SpecError
from workloads.models.lora_adapter import LoRAAdapter
from workloads.serving import adapter_list
from workloads.serving.adapter_list import Follower
from workloads.serving.engine import beside
from workloads.serving.front.adapters import VllmBase
from workloads.serving.front.application import Front, Worn
from workloads.serving.front.service import generation_of
from workloads.serving.model_figures import ModelFigures
from workloads.serving.refusal import Refusal
from workloads.storage.sources import Input
from workloads.system.environment import Environment

LOAD_SECONDS = 300.0
"""For vLLM to read an adapter from a volume."""
MARK = "@"
"""In vLLM's names of adapters, and in none of those that requests may use."""
LONGEST_SENTENCE = 300
"""Characters of what vLLM says against an adapter."""


class LiveAdapters(Follower):
    """Those on vLLM's model."""

    def __init__(
        self,
        job: ChatDeployment,
        environment: Environment,
        path: Path,
        front: Front,
        say: Callable[[str], None],
    ) -> None:
        """``path``: of the list. ``say`` takes what happens to them, a line each. Raises InputError for what is no list."""
        super().__init__(environment, path, say)
        self._job, self._front = job, front
        self._base: VllmBase | None = None
        self._there: set[str] = set()
        """What vLLM has, by its own names."""
        self._is_puzzled = False
        """What it was told last was no list of models, which is said once."""
        self._leaving: list[Worn] = []
        """Asked no more, and perhaps still answering."""
        self._kept_until: dict[str, float] = {}
        """When vLLM is asked again to drop what it did not."""
        self._figures = ModelFigures()
        self._listed = self._file.read()
        front.figures = self._figures.text
        front.coming = self._coming
        front.is_behind = bool(self._listed)

    async def _is_reached(self) -> bool:
        try:
            cards = await self._front.listed()
        except httpx.TransportError:
            return False
        except Refusal as refusal:
            if not self._is_puzzled:
                self._say(f"{refusal.message}; it is asked again")
            self._is_puzzled = True
            return False
        self._is_puzzled = False
        if not cards:  # it comes up
            return False
        self._there = {card["id"] for card in cards if MARK in card["id"]}
        for name, worn in list(self._front.adapters.items()):
            if worn.known_as not in self._there:
                self._say(f"vLLM has started anew, without adapter {name}: it is told of it again")
                del self._on[name]
                self._take_off(name)
                self._front.is_behind = True
        return True

    async def _put_on(self, listed: ListedAdapter) -> bool:
        front = self._front
        worn, label = await asyncio.to_thread(self._looked_at, listed)
        if worn.known_as not in self._there:
            asked = {"lora_name": worn.known_as, "lora_path": worn.root}
            try:
                told = await front.upstream.post("/v1/load_lora_adapter", json=asked, timeout=LOAD_SECONDS)
            except httpx.ReadTimeout as error:
                raise SpecError(
                    f"{label}: vLLM has not loaded it after {LOAD_SECONDS:g} s: see whether its volume answers"
                ) from error
            except httpx.TransportError:
                return False
            if not told.is_success:
                raise SpecError(
                    f"vLLM does not load {label}: {_sentence(told).replace(worn.known_as, worn.name)}; merge it first, with a MergeJob, or set "
                    "engine to Transformers"
                )
            self._there.add(worn.known_as)
        before = front.adapters.pop(listed.name, None)
        front.adapters[listed.name] = worn
        if before is not None:
            self._leave(before)
        self._figures.loaded(worn.name, "LoRAAdapter", worn.digest)
        return True

    def _take_off(self, name: str) -> None:
        self._leave(self._front.adapters.pop(name))

    def _leave(self, worn: Worn) -> None:
        self._figures.unloaded(worn.name, "LoRAAdapter", worn.digest)
        self._leaving.append(worn)

    async def _tidy(self) -> None:
        """Also what was told to vLLM by one that stood here before."""
        self._leaving = [worn for worn in self._leaving if worn.users]
        needed = {worn.known_as for worn in (*self._front.adapters.values(), *self._leaving)}
        if self._front.is_behind:  # what is not taken over yet may be what is wanted
            return
        for known_as in sorted(self._there - needed):
            if time.monotonic() >= self._kept_until.get(known_as, 0.0):
                await self._drop(known_as)

    async def _drop(self, known_as: str) -> None:
        name = known_as.partition(MARK)[0]
        asked = {"lora_name": known_as}
        try:
            told = await self._front.upstream.post("/v1/unload_lora_adapter", json=asked, timeout=LOAD_SECONDS)
        except httpx.TransportError:
            return
        if told.is_success or told.status_code == 404:
            self._there.discard(known_as)
            self._kept_until.pop(known_as, None)
            self._say(f"adapter {name} is dropped: nobody is answered by it any more")
        else:
            self._kept_until[known_as] = time.monotonic() + adapter_list.RETRY_SECONDS
            self._say(f"adapter {name} stays in vLLM, which does not drop it: {_sentence(told)}")

    def _tell(self) -> None:
        self._figures.adapters_refused(self._refused)
        self._front.coming = self._coming
        self._front.is_behind &= bool(self._coming)

    def _looked_at(self, listed: ListedAdapter) -> tuple[Worn, str]:
        """The model that it makes, and its name in messages. Raises WorkloadError for what vLLM would serve otherwise than our own engine."""
        label = f"spec.adapters[{listed.name}] {listed.uri}"
        if (scheme := re.match(r"[a-z0-9]+(?=://)", listed.uri)) and scheme[0] not in ("pvc", "file"):
            raise SpecError(
                f"{label}: vLLM reads adapters from pvc:// alone: let its job write there, or set engine to Transformers"
            )
        field, source = self._found(listed, (self._front.name,))
        label = f"spec.{field} {source.uri}"
        beside.must_change_layers_alone(LoRAAdapter.open(source.path, label))
        if self._base is None:
            self._base = VllmBase.of(self._job, self._environment, lambda: None)
        self._base.must_fit(label, source.path)
        generation = generation_of(self._job, self._environment, source.path)
        known_as = _known_as(listed.name, source)
        return Worn(listed.name, known_as, source.digest, str(source.path), generation), label


def _known_as(name: str, source: Input) -> str:
    """By its place too, which vLLM may read it from again."""
    content = hashlib.sha256(f"{source.path}\0{source.digest}".encode()).hexdigest()
    return f"{name}{MARK}{content[:16]}"


def _sentence(told: httpx.Response) -> str:
    """What vLLM says, in the shape of its version: `error.message`, `message` or FastAPI's `detail`."""
    try:
        body: Any = told.json()
    except ValueError:
        return f"status {told.status_code}: {told.text[:LONGEST_SENTENCE]}"
    error = body.get("error", body) if isinstance(body, dict) else body
    found = (error.get("message") or error.get("detail")) if isinstance(error, dict) else error
    return str(found)[:LONGEST_SENTENCE].rstrip(".")
