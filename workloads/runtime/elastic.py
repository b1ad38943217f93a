"""torch's elastic launcher, set up for one machine: a store on the loopback interface, no restarts, signals left to us."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public, and not listed
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousParameters
from torch.distributed.elastic.rendezvous.api import RendezvousStoreInfo, rendezvous_handler_registry
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

LOOPBACK = "127.0.0.1"
BACKEND = "loopback"
QUIET = ("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing")


class Loopback(RendezvousHandler):
    """The rendezvous of a single agent.

    The launcher's own listen on every interface of a pod, on a port that may be taken by the time they open it, and the dynamic one
    unpickles what it is sent.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        listener = socket.create_server((LOOPBACK, 0))
        self._port = int(listener.getsockname()[1])
        self._store = TCPStore(
            LOOPBACK, self._port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )

    def get_backend(self) -> str:
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        info = RendezvousStoreInfo(LOOPBACK, self._port)
        return RendezvousInfo(PrefixStore(self._run_id, self._store), rank=0, world_size=1, bootstrap_store_info=info)

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        """Nobody else is waiting to join."""

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        return True


def _loopback(parameters: RendezvousParameters) -> Loopback:
    return Loopback(parameters.run_id)


def run(count: int, function: Callable[..., None], arguments: list[Any], start_method: str, folder: Path) -> bool:
    """Call ``function`` in ``count`` processes with ``RANK`` and the like in their environment; returns whether all ended well.

    When one fails, the others get SIGTERM, and SIGKILL half a minute later.
    """
    rendezvous_handler_registry.register(BACKEND, _loopback)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(QUIET):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what failed is told by us, once
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=f"alpaca-{os.getpid()}",
        role="rank",
        rdzv_backend=BACKEND,
        rdzv_endpoint=LOOPBACK,
        local_addr=LOOPBACK,
        max_restarts=0,  # the Job restarts, from the newest checkpoint
        monitor_interval=0.1,
        start_method=start_method,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
        signals_to_handle="SIGHUP",
    )
    try:
        elastic_launch(config, function)(*arguments)
    except ChildFailedError:
        return False
    return True
