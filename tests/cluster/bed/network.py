"""Addresses of a bed: a slice of its own, so that several run beside each other and beside whatever else the host routes."""

from __future__ import annotations

import ipaddress
import json
import zlib
from dataclasses import dataclass

from tests.cluster.bed.cache import BedError, run

SPACE = ipaddress.ip_network("10.217.0.0/16")
BEDS = 64


@dataclass(frozen=True)
class Subnets:
    """Slice `index` of SPACE: the link between host and node, the pods' and the Services' addresses, a /24 each."""

    index: int

    def _part(self, part: int) -> ipaddress.IPv4Network:
        whole = ipaddress.ip_network(f"{SPACE.network_address + self.index * 1024}/22")
        assert isinstance(whole, ipaddress.IPv4Network)
        return list(whole.subnets(new_prefix=24))[part]

    @property
    def host_ip(self) -> str:
        return str(self._part(0)[1])

    @property
    def node_ip(self) -> str:
        return str(self._part(0)[2])

    @property
    def pods(self) -> str:
        return str(self._part(1))

    @property
    def services(self) -> str:
        return str(self._part(2))

    @property
    def first_service_ip(self) -> str:
        """The API server's own, as pods know it."""
        return str(self._part(2)[1])


def free_subnets(name: str) -> Subnets:
    """The name's own slice, or the next that no route of the host touches: a bed of one name keeps its addresses."""
    taken = [
        ipaddress.ip_network(route["dst"])
        for route in json.loads(run("ip", "-json", "-4", "route", "show", "table", "all") or "[]")
        if route.get("dst", "default") != "default"
    ]
    start = zlib.crc32(name.encode()) % BEDS
    for index in (*range(start, BEDS), *range(start)):
        whole = ipaddress.ip_network(f"{SPACE.network_address + index * 1024}/22")
        if not any(whole.overlaps(network) for network in taken):
            return Subnets(index)
    raise BedError(
        f"the host routes all of {SPACE}, which the bed takes its addresses from: end a bed, or leave that range"
    )
