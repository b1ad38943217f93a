"""Models that are served elsewhere, asked over any OpenAI-compatible API: several questions at a time, each again after a passing failure."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.endpoint import Endpoint, key_variable
from alpaca_operator.api.generation import Decoding
from workloads.errors import InputError, SpecError, WorkloadError
from workloads.system.describe import first_line

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAIError

RETRIES = 5
"""After a connection that was lost, a server that is busy (429) or failed (5xx); the client waits longer each time, or as the server says."""
TIMEOUT_SECONDS = 600.0
"""For one answer."""
BEAT_SECONDS = 1.0
KEY = re.compile(r"[\x21-\x7e]+")
"""What a header can hold."""

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Reply:
    """What an API answered."""

    text: str
    tokens: int
    """As the server counts them."""
    finish_reason: str


@dataclass(frozen=True)
class Asker:
    """A model behind an endpoint of the spec."""

    field: str
    """Of the endpoint, such as `models[1].endpoint`."""
    url: str
    model: str
    key: str | None

    @property
    def uri(self) -> str:
        """For reports."""
        return f"{self.url} ({self.model})"

    def replies(
        self,
        conversations: Sequence[Messages],
        request: Mapping[str, Any],
        *,
        at_once: int = 8,
        heartbeat: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[int, Reply]]:
        """The number of each conversation with its reply, as they come. ``heartbeat`` is called at least once a second, and may raise, to stop.

        Raises SpecError where the server refuses the key or the request, WorkloadError where it is away or busy for too long.
        """
        with asyncio.Runner() as runner:
            coming = self._replies(conversations, request, at_once, heartbeat)

            async def following() -> tuple[int, Reply] | None:
                return await anext(coming, None)

            try:
                while (found := runner.run(following())) is not None:
                    yield found
            finally:
                runner.run(coming.aclose())

    async def _replies(
        self,
        conversations: Sequence[Messages],
        request: Mapping[str, Any],
        at_once: int,
        heartbeat: Callable[[], None],
    ) -> AsyncGenerator[tuple[int, Reply]]:
        waiting = asyncio.Semaphore(at_once)
        async with _client(self.url, self.key) as client:

            async def one(number: int) -> tuple[int, Reply]:
                async with waiting:
                    return number, await self._reply(client, conversations[number], request)

            pending = {asyncio.ensure_future(one(number)) for number in range(len(conversations))}
            try:
                while pending:
                    heartbeat()
                    done, pending = await asyncio.wait(
                        pending, timeout=BEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED
                    )
                    for task in done:
                        yield task.result()
            finally:
                for task in pending:
                    task.cancel()
                await asyncio.gather(*pending, return_exceptions=True)

    async def _reply(self, client: AsyncOpenAI, messages: Any, request: Mapping[str, Any]) -> Reply:
        from openai import OpenAIError

        try:
            found: Any = await client.chat.completions.create(model=self.model, messages=messages, **request)
        except OpenAIError as error:
            raise explained(error, self.field, self.url) from error
        if not getattr(found, "choices", None) or found.usage is None:
            missing = "usage" if getattr(found, "choices", None) else "choices"
            raise InputError(
                f"spec.{self.field}.url: {self.url} answers without {missing}: name the base of an OpenAI-compatible API, with its version"
            )
        choice = found.choices[0]
        return Reply(choice.message.content or "", found.usage.completion_tokens, str(choice.finish_reason))


def find(field: str, endpoint: Endpoint, request: Mapping[str, Any], environ: Mapping[str, str]) -> Asker:
    """The model behind an endpoint, found and asked for one token, by the same settings as later: what is refused is known before anything is
    loaded.

    Raises InputError for a server that is not there, SpecError for a key, a model or a setting that it refuses.
    """
    from openai import OpenAIError

    url, key = endpoint.url.rstrip("/"), (environ.get(key_variable(field)) or "").strip()
    if key and not KEY.fullmatch(key):
        raise SpecError(f"spec.{field}.secretRef: the key has characters that no header can hold: correct it")

    async def first_listed() -> str:
        async with _client(url, key) as client:
            try:
                listed = [model.id async for model in client.models.list()]
            except OpenAIError as error:
                raise explained(error, field, url, away=InputError) from error
        if not listed:
            raise InputError(f"spec.{field}.url: {url} lists no model: name one in {field}.model")
        return str(listed[0])

    async def try_out(asker: Asker) -> None:
        async with _client(url, key) as client:
            await asker._reply(client, [{"role": "user", "content": "1"}], {**request, "max_tokens": 1})

    asker = Asker(field, url, endpoint.model or asyncio.run(first_listed()), key or None)
    try:
        asyncio.run(try_out(asker))
    except Away as error:
        raise InputError(str(error)) from error
    return asker


def request_of(decoding: Decoding, seed: int) -> dict[str, Any]:
    """The fields of a question. What OpenAI's own API does not know, as `top_k`, is sent only where it asks for something."""
    request: dict[str, Any] = {"temperature": decoding.temperature, "max_tokens": decoding.max_new_tokens}
    extra: dict[str, Any] = {}
    if decoding.temperature > 0:
        request |= {"top_p": decoding.top_p, "seed": seed}
        extra |= {"top_k": decoding.top_k} if decoding.top_k else {}
    if decoding.repetition_penalty != 1:
        extra["repetition_penalty"] = decoding.repetition_penalty
    return request | ({"extra_body": extra} if extra else {})


class Away(WorkloadError):
    """A server that cannot be reached or is busy: the next run may find it."""


def explained(error: OpenAIError, field: str, url: str, away: type[WorkloadError] = Away) -> WorkloadError:
    """What went wrong, by the field to look at."""
    from openai import APIConnectionError, APIStatusError

    said = first_line(error)
    if isinstance(error, APIConnectionError):
        return away(
            f"spec.{field}.url: {url} cannot be reached ({first_line(error.__cause__ or error)}): check the address, and that it answers from here"
        )
    if not isinstance(error, APIStatusError):
        return InputError(
            f"spec.{field}.url: {url} gives no answer of OpenAI's form ({said}): name the base of such an API"
        )
    if error.status_code in (401, 403):
        return SpecError(
            f"spec.{field}.secretRef: {url} refuses the key ({error.status_code}): name the Secret that holds it (locally {key_variable(field)})"
        )
    if error.status_code == 429 or error.status_code >= 500:
        return away(f"spec.{field}.url: {url} is busy or failed {RETRIES + 1} times ({said}): run again later")
    return SpecError(
        f"spec.{field}: {url} refuses the question ({said}): correct the model, or the setting that it names"
    )


def _client(url: str, key: str | None) -> AsyncOpenAI:
    from openai import AsyncOpenAI

    return AsyncOpenAI(base_url=url, api_key=key or "none", max_retries=RETRIES, timeout=TIMEOUT_SECONDS)
