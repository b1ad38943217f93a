"""A chat on this machine: ``python -m workloads.chat chat.yaml``.

The engine and the page in one process; in a cluster each has a container of its own (``workloads.engine``, ``workloads.chat_ui``).
"""

from __future__ import annotations

import asyncio
import os
import sys

from alpaca_operator.api import contract
from alpaca_operator.api.chat import ChatDeployment
from workloads.errors import WorkloadError
from workloads.runtime import command, exits


def serve(job: ChatDeployment) -> int:
    """Until a signal comes; returns the exit code."""
    from workloads.runtime.http import port
    from workloads.serving.page import service as page
    from workloads.serving.page.settings import Settings
    from workloads.system.environment import Environment

    if job.spec.engine == "External":
        return page.execute(job)
    try:
        Settings.read(job, os.environ)
        in_pod = Environment.read(os.environ).in_pod
        number = port(os.environ, page.ENV_PORT, contract.PAGE_PORT)
    except WorkloadError as error:
        return exits.exit_with(error, os.environ)
    # The page needs nothing of the hub and says so for its whole process; the engine beside it may have a model to fetch.
    os.environ.setdefault("HF_HUB_OFFLINE", "0")
    from workloads.serving.engine import service as engine

    async def serve_page(address: str, closing: asyncio.Event) -> None:
        await page.serve(
            job, Settings.read(job, {**os.environ, contract.ENV_ENGINE_URL: address}), in_pod, number, closing
        )

    return engine.execute(job, sidecar=serve_page)


if __name__ == "__main__":
    sys.exit(command.serve(ChatDeployment, serve))
