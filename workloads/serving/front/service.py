"""The process before vLLM, from start to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from typing import Any

import httpx

from alpaca_operator.api import contract
from alpaca_operator.api.chat import NO_PARSER, ChatDeployment
from alpaca_operator.api.sources import sources
from workloads.errors import SpecError
from workloads.runtime.http import Server, listen, port
from workloads.serving import defaults, process
from workloads.serving.front.application import Front, application
from workloads.serving.guard import addresses, keys
from workloads.serving.process import Serving, log
from workloads.storage.uri import local_path
from workloads.system.environment import Environment
from workloads.system.signals import RESERVE

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
        number = port(os.environ, ENV_PORT, contract.API_PORT)
        return lambda stop: _serve(job, front, environment.in_pod, number, stop)

    return process.execute(prepare)


def front_of(job: ChatDeployment, environ: Mapping[str, str], environment: Environment) -> Front:
    """Raises WorkloadError for another engine's spec, a key that is missing, and a generation_config.json that is no good."""
    spec = job.spec
    if spec.engine != "vLLM":
        raise SpecError(f"engine {spec.engine} answers its API itself: this stands before vLLM alone")
    return Front(
        name=job.metadata.name,
        upstream=client(environ.get(ENV_VLLM_URL) or f"http://127.0.0.1:{contract.VLLM_PORT}"),
        generation=_generation(job, environment),
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


def _generation(job: ChatDeployment, environment: Environment) -> dict[str, Any]:
    """What the spec says, and for what it does not say what the model does, where its folder is at hand. Of a model of a hub vLLM knows by
    itself."""
    spec = job.spec
    folders = []
    for field, source in reversed(list(sources(spec))):
        uri = str(source.uri)
        if field.partition("[")[0] in ("model", "adapters") and not uri.startswith("hf://"):
            folders.append(local_path(uri, environment, f"spec.{field}.uri: {uri}"))
        elif field == "model":
            return spec.generation.model_dump(exclude_none=True)
    return defaults.resolved(spec.generation, folders)


async def _serve(job: ChatDeployment, front: Front, in_pod: bool, number: int, stop: asyncio.Event) -> None:
    listener = listen(in_pod, number, ENV_PORT)
    grace = job.spec.pod.termination_grace_period_seconds * (1 - RESERVE)
    known = addresses.of(job, os.environ, in_pod)
    server = Server(application(front, known, log), LAST_WORDS_SECONDS, lifespan="on")
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    log(f"the API comes up at http://127.0.0.1:{listener.getsockname()[1]}/v1")
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    front.draining = True  # the port stays open meanwhile: vLLM's container waits for it to close before it stops
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, grace - LAST_WORDS_SECONDS)):
            if front.present:
                await front.idle.wait()
    server.should_exit = True
    await serving
