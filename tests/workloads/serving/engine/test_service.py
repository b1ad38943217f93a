"""The engine's service, in this process."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from pathlib import Path

import httpx

from alpaca_operator.api.chat import ChatDeployment
from tests.workloads.engine_process import PATIENCE, manifest
from workloads.runtime.console import display
from workloads.serving.engine.service import Service
from workloads.system.environment import Environment


async def test_what_was_loaded_is_looked_at_by_no_collection(shelf: Path, tmp_path: Path) -> None:
    """A request of 190,000 values had it done for half a second, while nothing else ran."""
    frozen: list[int] = []

    async def look(address: str, closing: asyncio.Event) -> None:
        async with httpx.AsyncClient(base_url=address) as client, asyncio.timeout(PATIENCE):
            while True:
                if (await client.get("/models")).is_success:
                    break
                await asyncio.sleep(0.05)
        frozen.append(gc.get_freeze_count())
        os.kill(os.getpid(), signal.SIGTERM)
        await closing.wait()

    job = ChatDeployment.model_validate(manifest(model={"uri": str(shelf / "base")}))
    environ = {"ALPACA_CACHE": str(tmp_path / "cache"), "ALPACA_ENGINE_PORT": "0"}
    before = gc.get_freeze_count()
    try:
        with display(in_pod=True) as console:
            await Service(job, Environment.read(environ), environ, console, look).run()
        assert frozen[0] > before + 100_000
    finally:
        gc.unfreeze()
