"""The models behind the page: which there are, how they are to be asked, and whether they can answer now."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, AsyncOpenAI, Timeout
from pydantic import Field, ValidationError

from alpaca_operator.api.contract import Wire
from alpaca_operator.api.generation import Decoding
from workloads.serving.page.settings import Api, Settings

FRESH_SECONDS = 2.0
"""How long a look at the engine holds: many open pages ask it no more often than one."""
LOOK_SECONDS = 5.0
"""An engine that takes longer to list its models counts as unreachable."""
CONNECT_SECONDS = 5.0

Condition = Literal["ready", "busy", "loading", "away", "refused", "unreachable"]
"""`away`: no pod has the engine, or none that says anything."""


class Controls(Wire):
    """How an answer is written. Defaults are those of an engine that does not tell its own."""

    temperature: float = Field(Decoding.model_fields["temperature"].default, ge=0)
    top_p: float = Field(Decoding.model_fields["top_p"].default, gt=0, le=1)
    top_k: int = Field(Decoding.model_fields["top_k"].default, ge=0)
    repetition_penalty: float = Field(Decoding.model_fields["repetition_penalty"].default, gt=0)
    max_new_tokens: int = Field(Decoding.model_fields["max_new_tokens"].default, ge=1)


@dataclass(frozen=True)
class Model:
    """A model that can be asked."""

    name: str
    client: AsyncOpenAI = field(compare=False, repr=False)
    defaults: Controls = field(default_factory=Controls)
    context_length: int | None = None
    system_prompt: str = ""
    """What the engine puts before conversations that bring none."""


@dataclass(frozen=True)
class EngineStatus:
    """Whether the engine can answer, and with which models."""

    condition: Condition
    models: tuple[Model, ...] = ()
    detail: str = ""
    """In the engine's own words."""
    waiting: int = 0
    """Questions in its queue."""

    def find(self, name: str) -> Model | None:
        return next((model for model in self.models if model.name == name), None)


class Models:
    """All engines of a page, looked at when somebody asks, and not more often than makes sense."""

    def __init__(self, settings: Settings) -> None:
        self._backends = [_Backend(api, settings) for api in settings.apis]
        self._status = EngineStatus("loading")
        self._looked_at = -FRESH_SECONDS
        self._looking = asyncio.Lock()

    async def look(self) -> EngineStatus:
        """What is there now. Never raises: an engine that cannot be reached is something to see."""
        async with self._looking:
            if time.monotonic() - self._looked_at >= FRESH_SECONDS:
                self._status = _combined(await asyncio.gather(*(backend.look() for backend in self._backends)))
                self._looked_at = time.monotonic()
        return self._status

    async def close(self) -> None:
        for backend in self._backends:
            await backend.client.close()


class _Backend:
    """One API."""

    def __init__(self, api: Api, settings: Settings) -> None:
        self._api, self._is_ours = api, settings.is_ours
        # Asking again is for people to decide: a second try that nobody asked for would double an engine's load when it is busiest.
        self.client = AsyncOpenAI(
            base_url=api.url,
            api_key=api.key or "none",
            max_retries=0,
            timeout=Timeout(settings.longest_wait_seconds + 30, connect=CONNECT_SECONDS),
        )

    async def look(self) -> EngineStatus:
        try:
            listed = await self.client.models.list(timeout=LOOK_SECONDS)
            models = tuple(self._model(entry.model_dump()) for entry in listed.data)
        except APIConnectionError as error:
            if self._api.pods_url is None:
                return EngineStatus("unreachable")
            return await self._look_behind(self._api.pods_url, error)
        except APIStatusError as error:
            return _refusal(error)
        except (APIError, ValueError) as error:  # an answer that is no list of models: another kind of server is there
            return EngineStatus("unreachable", detail=str(error)[:200])
        if self._api.model:
            models = tuple(model for model in models if model.name == self._api.model)
        elif not self._is_ours:
            models = models[:1]
        waiting = await self._waiting() if self._is_ours else 0
        return EngineStatus("busy" if waiting else "ready" if models else "loading", models, waiting=waiting)

    async def _look_behind(self, pods_url: str, nobody: APIConnectionError) -> EngineStatus:
        """Nobody is ready who could answer: whether there is a pod of the engine, and what it says."""
        try:
            await self.client.with_options(base_url=pods_url).models.list(timeout=LOOK_SECONDS)
        except APIConnectionError as error:
            late = isinstance(nobody, APITimeoutError) and isinstance(error, APITimeoutError)
            return EngineStatus("unreachable" if late else "away")
        except APIStatusError as error:
            return _refusal(error)
        except (APIError, ValueError) as error:
            return EngineStatus("unreachable", detail=str(error)[:200])
        return EngineStatus("loading")  # it has loaded, and its Service is about to lead there

    def _model(self, entry: Mapping[str, Any]) -> Model:
        ours = entry.get("alpaca") or {}
        try:
            defaults = Controls.model_validate(ours.get("generation") or {})
        except ValidationError:
            defaults = Controls()
        return Model(
            name=str(entry["id"]),
            client=self.client,
            defaults=defaults,
            context_length=ours.get("contextLength") or entry.get("max_model_len"),  # the latter is vLLM's
            system_prompt=ours.get("systemPrompt") or "",
        )

    async def _waiting(self) -> int:
        """Length of the queue by the engine's metrics; 0 where it has none."""
        root = self._api.url.rstrip("/").removesuffix("/v1")
        try:
            text = await self.client.get(f"{root}/metrics", cast_to=str, options={"timeout": LOOK_SECONDS})
        except APIError:
            return 0
        found = re.search(r"^alpaca_chat_queued(?:\{[^}]*\})? ([0-9.e+]+)$", text, re.MULTILINE)
        return int(float(found.group(1))) if found else 0


def _refusal(error: APIStatusError) -> EngineStatus:
    if error.status_code in (401, 403):
        return EngineStatus("refused")
    return EngineStatus("loading" if error.status_code == 503 else "unreachable", detail=error_message(error))


def _combined(seen: list[EngineStatus]) -> EngineStatus:
    """Of several engines: every model that is there, and what is amiss with the first that has none to offer."""
    models = tuple(model for status in seen for model in status.models)
    amiss = next((status for status in seen if not status.models), None)
    waiting = sum(status.waiting for status in seen)
    if amiss and not models:
        return amiss
    return EngineStatus("busy" if waiting else "ready", models, waiting=waiting)


def error_message(error: APIError) -> str:
    """The server's own sentence, where it sent one in OpenAI's shape."""
    body = error.body
    if isinstance(body, Mapping) and isinstance(body.get("message"), str):
        return str(body["message"])[:1000]
    return error.message[:200]
