"""A process that serves until it is told to stop: from its environment to its exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from alpaca_operator.api import contract
from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.status import Reason
from workloads.errors import WorkloadError
from workloads.runtime import exits
from workloads.system.environment import Environment

Serving = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""Serves until the event is set."""


def execute(prepare: Callable[[Environment], Serving]) -> int:
    """Serve what ``prepare`` makes ready until a signal comes; returns the exit code. It raises WorkloadError for what cannot be served."""
    try:
        environment = Environment.read(os.environ)
        serving = prepare(environment)
    except WorkloadError as error:
        return exits.exit_with(error, os.environ)
    try:
        asyncio.run(_until_signal(serving))
        ending = exits.termination(Reason.SUCCEEDED, ExitCode.OK, "stopped as asked", contract.Progress())
    except BaseException as error:  # noqa: BLE001 - every way to end has to reach the exit code and the last word
        ending = exits.failed(error, contract.Progress())
    exits.write_termination(ending, environment.termination_log)
    return ending.exit_code


async def _until_signal(serving: Serving) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    await serving(stop)


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
