"""torch's elastic launcher, set up by us: a store that is there already, no restarts, signals left to us."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public, and not listed
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousParameters
from torch.distributed.elastic.rendezvous.api import RendezvousStoreInfo, rendezvous_handler_registry
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

LOOPBACK = "127.0.0.1"
BACKEND = "given"
QUIET = ("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing")


@dataclass(frozen=True)
class Meeting:
    """Where the agents of all machines meet."""

    store: Any
    address: str
    port: int
    """Of the store, for the processes that the agents start."""
    node: int = 0
    nodes: int = 1

    @classmethod
    def alone(cls) -> Meeting:
        """One machine: a store on its loopback interface, at a free port."""
        listener = socket.create_server((LOOPBACK, 0))
        port = int(listener.getsockname()[1])
        store = TCPStore(LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
        return cls(store, LOOPBACK, port)


class GivenStore(RendezvousHandler):
    """The rendezvous of agents that have met already.

    The launcher's own listen on every interface of a pod, on a port that may be taken by the time they open it, and the dynamic one
    unpickles what it is sent.
    """

    def __init__(self, run_id: str, meeting: Meeting) -> None:
        self._run_id = run_id
        self._meeting = meeting

    def get_backend(self) -> str:
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        meeting = self._meeting
        return RendezvousInfo(
            PrefixStore(self._run_id, meeting.store),
            rank=meeting.node,
            world_size=meeting.nodes,
            bootstrap_store_info=RendezvousStoreInfo(meeting.address, meeting.port),
        )

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


def _given(parameters: RendezvousParameters) -> GivenStore:
    return GivenStore(parameters.run_id, parameters.config["meeting"])


def run(
    count: int,
    function: Callable[..., None],
    arguments: list[Any],
    start_method: str,
    folder: Path,
    meeting: Meeting | None = None,
) -> bool:
    """Call ``function`` in ``count`` processes with ``RANK`` and the like in their environment; returns whether all ended well.

    When one fails, the others get SIGTERM, and SIGKILL half a minute later. Without a ``meeting`` this machine is the only one.
    """
    place = meeting or Meeting.alone()
    rendezvous_handler_registry.register(BACKEND, _given)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(QUIET):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what failed is told by us, once
    config = LaunchConfig(
        min_nodes=place.nodes,
        max_nodes=place.nodes,
        nproc_per_node=count,
        run_id="alpaca",
        role="rank",
        rdzv_backend=BACKEND,
        rdzv_endpoint=place.address,
        rdzv_configs={"meeting": place},
        local_addr=place.address,
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
