"""The process before vLLM, from start to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from alpaca_operator.api import contract
from alpaca_operator.api.chat import NO_PARSER, ChatDeployment
from alpaca_operator.api.sources import sources
from workloads.errors import SpecError
from workloads.runtime.http import Server, listen, port
from workloads.serving import defaults, process
from workloads.serving.front.application import Front, application
from workloads.serving.grace import seconds_left
from workloads.serving.guard import addresses, keys
from workloads.serving.process import Serving, log
from workloads.storage.uri import local_path
from workloads.system.environment import Environment

# It brings torch, which the image of the page lacks, and which is wanted where there are adapters to look at.
if TYPE_CHECKING:
    from workloads.serving.front.live_adapters import LiveAdapters

CONNECT_SECONDS = 5.0
LAST_WORDS_SECONDS = 3
"""For connections to close after the last answer."""
ENV_PORT = "ALPACA_ENGINE_PORT"
"""Another port than contract.API_PORT, as for our own engine."""
ENV_VLLM_URL = "ALPACA_VLLM_URL"
"""Where vLLM answers, in place of its port in the same pod."""


def execute(job: ChatDeployment) -> int:
    """Stand before vLLM until a signal comes; returns the exit code."""

    def prepare(environment: Environment) -> Serving:
        front = front_of(job, os.environ, environment)
        live = live_of(job, os.environ, environment, front)
        number = port(os.environ, ENV_PORT, contract.API_PORT)
        return lambda stop: _serve(job, front, live, environment.in_pod, number, stop)

    return process.execute(prepare)


def front_of(job: ChatDeployment, environ: Mapping[str, str], environment: Environment) -> Front:
    """Raises WorkloadError for another engine's spec, a key that is missing, and a generation_config.json that is no good."""
    spec = job.spec
    if spec.engine != "vLLM":
        raise SpecError(f"engine {spec.engine} answers its API itself: this stands before vLLM alone")
    if any(adapter.name for adapter in spec.adapters):
        raise SpecError(
            f"adapters with names are told to vLLM as a list says, which a pod has from its operator: remove adapters, and name a file "
            f"with the list in {contract.ENV_ADAPTERS}"
        )
    return Front(
        name=job.metadata.name,
        upstream=client(environ.get(ENV_VLLM_URL) or f"http://127.0.0.1:{contract.VLLM_PORT}"),
        generation=generation_of(job, environment),
        system_prompt=spec.system_prompt,
        may_call=spec.vllm is None or spec.vllm.tool_call_parser != NO_PARSER,
        key=keys.of(job, environ),
        most=spec.limits.max_batch + spec.limits.max_queue,
        seconds=spec.limits.request_timeout_seconds,
    )


def client(url: str) -> httpx.AsyncClient:
    """For as many answers as come, each as long as it takes: the front has bounds of its own."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=16)
    return httpx.AsyncClient(
        base_url=url, timeout=httpx.Timeout(None, connect=CONNECT_SECONDS), limits=limits, trust_env=False
    )


def live_of(
    job: ChatDeployment, environ: Mapping[str, str], environment: Environment, front: Front
) -> LiveAdapters | None:
    """What tells vLLM of the adapters of a list; None where there is none. Raises WorkloadError for one that cannot be read."""
    path = environ.get(contract.ENV_ADAPTERS)
    if not path:
        return None
    from workloads.models import libraries

    libraries.quiet()
    # What they are looked at with, for which an interpreter is busy for seconds: before anybody is answered.
    import peft  # noqa: F401

    from workloads.serving.front.live_adapters import LiveAdapters

    return LiveAdapters(job, environment, Path(path), front, log)


def generation_of(job: ChatDeployment, environment: Environment, adapter: Path | None = None) -> dict[str, Any]:
    """What the spec says, and for what it does not say what the model does, where its folder is at hand. Of a model of a hub vLLM knows by
    itself. ``adapter``: the folder of one on it, whose word is first."""
    spec = job.spec
    folders = [adapter] if adapter else []
    for field, source in reversed(list(sources(spec))):
        uri = str(source.uri)
        if field.partition("[")[0] in ("model", "adapters") and not uri.startswith("hf://"):
            folders.append(local_path(uri, environment, f"spec.{field}.uri: {uri}"))
        elif field == "model":
            return spec.generation.model_dump(exclude_none=True)
    return defaults.resolved(spec.generation, folders)


async def _serve(
    job: ChatDeployment, front: Front, live: LiveAdapters | None, in_pod: bool, number: int, stop: asyncio.Event
) -> None:
    listener = listen(in_pod, number, ENV_PORT)
    grace = seconds_left(job, in_pod)
    known = addresses.of(job, os.environ, in_pod)
    server = Server(application(front, known, log), LAST_WORDS_SECONDS, lifespan="on")
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    log(f"the API comes up at http://127.0.0.1:{listener.getsockname()[1]}/v1")
    ends = {serving, asyncio.create_task(stop.wait())}
    following = asyncio.create_task(live.follow()) if live else None
    await asyncio.wait({*ends, following} if following else ends, return_when=asyncio.FIRST_COMPLETED)
    front.draining = True  # the port stays open meanwhile: vLLM's container waits for it to close before it stops
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, grace - LAST_WORDS_SECONDS)):
            if front.present:
                await front.idle.wait()
    failed = following.exception() if following and following.done() else None
    if following:
        following.cancel()
    server.should_exit = True
    await serving
    if failed:
        raise failed
