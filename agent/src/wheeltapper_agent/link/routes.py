"""Which interfaces traffic to an address leaves by, from the kernel's routing tables. Pure: the text is handed in.

Formats: ``/proc/net/route`` and ``/proc/net/ipv6_route`` (Linux, ``net/ipv4/fib_trie.c``, ``net/ipv6/route.c``; flags
in ``include/uapi/linux/route.h`` and ``ipv6_route.h``).

What this module does not do: policy routing, whose rules these files do not show.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Route", "best_interface", "default_interfaces", "host_interfaces", "ipv4_routes", "ipv6_routes"]

_UP: Final = 0x1
_REJECT: Final = 0x200
_OWN: Final = 0x80000000 | 0x00100000
"""Of IPv6: RTF_LOCAL and RTF_ANYCAST, the device's own addresses."""


@dataclass(frozen=True, slots=True)
class Route:
    """One row of a table."""

    version: int
    """4 or 6."""
    network: int
    prefix: int
    metric: int
    interface: str

    def matches(self, version: int, address: int) -> bool:
        """Whether the route leads to ``address``."""
        bits = 32 if self.version == 4 else 128
        return version == self.version and (address ^ self.network) >> (bits - self.prefix) == 0


def ipv4_routes(text: str) -> Iterator[Route]:
    """The routes in ``/proc/net/route`` that are up; rows that cannot be read are left out."""
    for line in text.splitlines()[1:]:
        fields = line.split()
        try:
            network, flags, mask = (int(fields[place], 16) for place in (1, 3, 7))
            metric = int(fields[6])
        except (ValueError, IndexError):
            continue
        if flags & _UP and not flags & _REJECT:
            network = int.from_bytes((network & 0xFFFFFFFF).to_bytes(4, "little"), "big")
            yield Route(4, network, (mask & 0xFFFFFFFF).bit_count(), metric, fields[0])


def ipv6_routes(text: str) -> Iterator[Route]:
    """The routes in ``/proc/net/ipv6_route`` that are up; rows that cannot be read are left out."""
    for line in text.splitlines():
        fields = line.split()
        try:
            network, prefix, metric, flags = (int(fields[place], 16) for place in (0, 1, 5, 8))
            interface = fields[9]
        except (ValueError, IndexError):
            continue
        if flags & _UP and not flags & (_REJECT | _OWN) and 0 <= prefix <= 128 and network < 2**128:
            yield Route(6, network, prefix, metric, interface)


def best_interface(routes: Sequence[Route], address: str) -> str | None:
    """The interface by which traffic to ``address`` leaves: longest prefix first, then the lowest metric; None if there
    is no route."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if (mapped := getattr(parsed, "ipv4_mapped", None)) is not None:
        parsed = mapped
    if parsed.is_loopback:
        return "lo"
    found = [route for route in routes if route.matches(parsed.version, int(parsed))]
    return min(found, key=lambda route: (-route.prefix, route.metric)).interface if found else None


def default_interfaces(routes: Sequence[Route], without: Sequence[str] = ()) -> set[str]:
    """The interface of the default route with the lowest metric, of IPv4 and of IPv6, where there is one."""
    found = set()
    for version in (4, 6):
        defaults = [
            route
            for route in routes
            if route.version == version and route.prefix == 0 and route.interface not in (*without, "lo")
        ]
        if defaults:
            found.add(min(defaults, key=lambda route: route.metric).interface)
    return found


def host_interfaces(routes: Sequence[Route], without: Sequence[str]) -> set[str]:
    """The interfaces of routes to one host: a VPN client makes one to the other end of its tunnel."""
    return {
        route.interface
        for route in routes
        if route.prefix == (32 if route.version == 4 else 128) and route.interface not in (*without, "lo")
    }
