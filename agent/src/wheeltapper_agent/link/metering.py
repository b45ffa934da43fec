"""Whether traffic to the fleet costs: whether it leaves by a metered interface, such as a modem.

Invariants:
    * It counts by the routes that traffic to the fleet's addresses takes, of IPv4 and IPv6. Where it may take several,
      one that is metered is enough.
    * What carries an interface counts, too: the modem below a VPN's tunnel, a VLAN, a bridge or a bond.
    * Where the way cannot be told (no route, a tunnel whose carrier is not known), it counts as metered if any metered
      interface is up.

What this module does not do: see policy routing; ask NetworkManager or ModemManager.
"""

from __future__ import annotations

import fnmatch
import logging
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from wheeltapper_agent.link.routes import (
    Route,
    best_interface,
    default_interfaces,
    host_interfaces,
    ipv4_routes,
    ipv6_routes,
)

__all__ = ["Metering", "metered", "read_routes", "resolved"]

_LOG = logging.getLogger(__name__)
_TUNNEL_TYPES: Final = {"768", "769", "776", "778", "823", "65534"}
"""ARPHRD_TUNNEL, _TUNNEL6, _SIT, _IPGRE, _IP6GRE, _NONE (tun, WireGuard); ``include/uapi/linux/if_arp.h``."""
_MAX_DEPTH: Final = 4
"""A VLAN on a bond on a bridge."""
_RESOLVE_SECONDS: Final = 300.0
"""How long addresses of the fleet are used before they are looked up again."""


def _text(path: Path) -> str:
    """The content of a file of the kernel; empty where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def read_routes(file: Path) -> list[Route]:
    """The routes of IPv4 in ``file`` (``/proc/net/route``), and of IPv6 in ``ipv6_route`` beside it."""
    return [*ipv4_routes(_text(file)), *ipv6_routes(_text(file.with_name("ipv6_route")))]


def _matches(interface: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(interface, pattern) for pattern in patterns)


def _lower(folder: Path, interface: str) -> list[str]:
    """The interfaces that carry ``interface``: a VLAN's parent, a bridge's or a bond's members."""
    try:
        return sorted(entry.name[6:] for entry in (folder / interface).iterdir() if entry.name.startswith("lower_"))
    except OSError:
        return []


def _is_tunnel(folder: Path, interface: str) -> bool:
    own = folder / interface
    if (own / "device").exists():  # a modem may be of the same type
        return False
    return (own / "tun_flags").exists() or _text(own / "type") in _TUNNEL_TYPES


def _carriers(routes: Sequence[Route], folder: Path, interface: str, depth: int = 0) -> set[str] | None:
    """``interface`` and all that carries it; None where that is not known."""
    if depth > _MAX_DEPTH:
        return None
    below = set(_lower(folder, interface))
    if not below and _is_tunnel(folder, interface):
        below = host_interfaces(routes, [interface]) or default_interfaces(routes, [interface])
        if not below:
            return None
    found = {interface}
    for each in below - found:
        carriers = _carriers(routes, folder, each, depth + 1)
        if carriers is None:
            return None
        found |= carriers
    return found


def _any_metered_up(folder: Path, patterns: Sequence[str]) -> bool:
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return False
    return any(_matches(name, patterns) and _text(folder / name / "operstate") != "down" for name in names)


def metered(
    routes_file: Path,
    patterns: Sequence[str],
    addresses: Sequence[str] = (),
    interfaces: Path = Path("/sys/class/net"),
) -> bool | None:
    """Whether traffic to the fleet costs.

    Args:
        routes_file: ``/proc/net/route``; ``ipv6_route`` is read beside it.
        patterns: names of metered interfaces, as shell patterns: ``wwan*``. None: nothing costs.
        addresses: of the fleet. Without any, or where no route leads there, the default routes count.
        interfaces: ``/sys/class/net``.

    Returns:
        None: there is no route, and no metered interface is up.
    """
    if not patterns:
        return False
    routes = read_routes(routes_file)
    ways = {way for address in addresses if (way := best_interface(routes, address)) is not None}
    ways = ways or default_interfaces(routes)
    if not ways:
        return True if _any_metered_up(interfaces, patterns) else None
    for way in ways:
        carriers = _carriers(routes, interfaces, way)
        if carriers is None:
            carriers = {way}
            if _any_metered_up(interfaces, patterns):
                return True
        if any(_matches(carrier, patterns) for carrier in carriers):
            return True
    return False


def resolved(host: str, port: int) -> list[str]:
    """The addresses of ``host``; empty where they cannot be looked up."""
    try:
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError as error:
        _LOG.debug("metering: %s cannot be resolved: %s", host, error)
        return []


class Metering:
    """Answers whether traffic to the fleet costs, for updates and recordings alike. Any thread may ask.

    Args:
        patterns: names of metered interfaces.
        routes_file: ``/proc/net/route``.
        host: of the fleet.
        port: of the fleet.
        interfaces: ``/sys/class/net``.
        resolve: looks up the addresses of the fleet.
    """

    def __init__(
        self,
        patterns: Sequence[str],
        routes_file: Path,
        host: str = "",
        port: int = 0,
        interfaces: Path = Path("/sys/class/net"),
        resolve: Callable[[str, int], list[str]] = resolved,
    ) -> None:
        self._patterns, self._routes_file, self._interfaces = tuple(patterns), routes_file, interfaces
        self._host, self._port, self._resolve = host, port, resolve
        self._addresses: tuple[str, ...] = ()
        self._resolve_at = float("-inf")

    def __call__(self) -> bool | None:
        """See :func:`metered`."""
        if not self._patterns:
            return False
        now = time.monotonic()
        if self._host and now >= self._resolve_at:
            self._addresses = tuple(self._resolve(self._host, self._port)) or self._addresses
            self._resolve_at = now + _RESOLVE_SECONDS
        return metered(self._routes_file, self._patterns, self._addresses, self._interfaces)
