"""Whether traffic to the fleet costs: IPv4 and IPv6, VPNs and bridges above a modem, and what cannot be known."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_agent.link.metering import Metering, metered, resolved
from wheeltapper_agent.link.routes import Route, best_interface, ipv4_routes, ipv6_routes

MODEM = ("wwan*", "ppp*")
FLEET4, FLEET6 = "203.0.113.7", "2001:db8::7"


class Machine:
    """A made-up ``/proc/net`` and ``/sys/class/net``."""

    def __init__(self, folder: Path) -> None:
        self.routes, self.interfaces = folder / "route", folder / "sys"
        self.interfaces.mkdir()
        self._four = ["Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT"]
        self._six: list[str] = []

    def interface(
        self, name: str, kind: int = 1, state: str = "up", lower: Sequence[str] = (), tun: bool = False
    ) -> None:
        own = self.interfaces / name
        own.mkdir()
        (own / "type").write_text(f"{kind}\n")
        (own / "operstate").write_text(f"{state}\n")
        if tun:
            (own / "tun_flags").write_text("0x1001\n")
        for each in lower:
            (own / f"lower_{each}").symlink_to(self.interfaces / each)

    def route(self, network: str, interface: str, metric: int = 100, flags: int = 3) -> None:
        found = ip_network(network)
        if found.version == 4:
            words = [int.from_bytes(part.packed, "little") for part in (found.network_address, found.netmask)]
            self._four.append(
                f"{interface}\t{words[0]:08X}\t00000000\t{flags:04X}\t0\t0\t{metric}\t{words[1]:08X}\t0\t0\t0"
            )
        else:
            self._six.append(
                f"{int(found.network_address):032x} {found.prefixlen:02x} {0:032x} 00 {0:032x} {metric:08x} 00000001"
                f" 00000000 {flags:08x} {interface:>8}"
            )
        self.routes.write_text("\n".join(self._four) + "\n")
        self.routes.with_name("ipv6_route").write_text("\n".join(self._six) + "\n")

    def metered(self, *addresses: str, patterns: Sequence[str] = MODEM) -> bool | None:
        return metered(self.routes, patterns, addresses, self.interfaces)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    for name in ("eth0", "wwan0"):
        made.interface(name)
    return made


def test_a_modem_that_has_ipv6_only(machine: Machine) -> None:
    machine.route("::/0", "wwan0")
    machine.route("::/0", "lo", metric=0xFFFFFFFF, flags=0x200)
    assert machine.metered() is True
    assert machine.metered(FLEET6) is True
    assert machine.metered(FLEET4, FLEET6) is True
    assert machine.metered(patterns=()) is False
    assert machine.metered(FLEET6, patterns=("ppp*",)) is False


def test_either_way_may_be_taken_so_either_counts(machine: Machine) -> None:
    machine.route("0.0.0.0/0", "eth0")
    machine.route("::/0", "wwan0")
    assert machine.metered() is True
    assert machine.metered(FLEET4) is False
    assert machine.metered(FLEET6) is True
    assert machine.metered(FLEET4, FLEET6) is True


def test_the_route_to_the_fleet_counts_and_not_the_default_one(machine: Machine) -> None:
    machine.route("0.0.0.0/0", "wwan0")
    machine.route("203.0.113.0/24", "eth0")
    assert machine.metered() is True
    assert machine.metered(FLEET4) is False
    assert machine.metered("198.51.100.1") is True
    assert machine.metered("127.0.0.1", "::1") is False  # a fleet on the device itself
    assert machine.metered(f"::ffff:{FLEET4}") is False


def test_the_lowest_metric_counts(machine: Machine) -> None:
    machine.route("0.0.0.0/0", "wwan0", metric=700)
    machine.route("0.0.0.0/0", "eth0", metric=100)
    assert machine.metered(FLEET4) is False
    machine.route("0.0.0.0/0", "wwan0", metric=50)
    assert machine.metered(FLEET4) is True


@pytest.mark.parametrize(("kind", "tun"), [(65534, True), (65534, False), (776, False), (768, False), (1, True)])
@pytest.mark.parametrize("halves", [True, False], ids=["two halves", "default"])
def test_a_tunnel_costs_what_carries_it_costs(machine: Machine, kind: int, tun: bool, halves: bool) -> None:
    machine.interface("vpn0", kind, "unknown", tun=tun)
    for network in ("0.0.0.0/1", "128.0.0.0/1") if halves else ("203.0.113.0/24",):
        machine.route(network, "vpn0", metric=50)
    machine.route("0.0.0.0/0", "wwan0")
    assert machine.metered(FLEET4) is True
    machine.route("0.0.0.0/0", "eth0", metric=10)
    assert machine.metered(FLEET4) is False
    machine.route("198.51.100.9/32", "wwan0")  # the other end of the tunnel
    assert machine.metered(FLEET4) is True


def test_a_tunnel_whose_carrier_is_unknown_counts_as_metered_while_a_modem_is_up(machine: Machine) -> None:
    machine.interface("wg0", 65534, "unknown")
    machine.route("0.0.0.0/0", "wg0")
    assert machine.metered(FLEET4) is True
    (machine.interfaces / "wwan0/operstate").write_text("down\n")
    assert machine.metered(FLEET4) is False


def test_the_modem_itself_is_no_tunnel(machine: Machine) -> None:
    """A modem in raw-IP mode has the type of a tunnel."""
    machine.interface("usb0", 65534)
    (machine.interfaces / "usb0/device").mkdir()
    machine.route("0.0.0.0/0", "usb0")
    assert machine.metered(FLEET4) is False
    assert machine.metered(FLEET4, patterns=("usb*",)) is True


def test_what_a_vlan_a_bridge_or_a_bond_stands_on_counts(machine: Machine) -> None:
    machine.interface("br0", lower=("eth0", "wwan0"))
    machine.interface("br0.7", lower=("br0",))
    machine.interface("eth0.5", lower=("eth0",))
    machine.route("0.0.0.0/0", "br0.7")
    assert machine.metered(FLEET4) is True
    machine.route("0.0.0.0/0", "eth0.5", metric=1)
    assert machine.metered(FLEET4) is False


def test_interfaces_that_carry_each_other_are_unknown(machine: Machine) -> None:
    for name, lower in (("a0", "b0"), ("b0", "a0")):
        machine.interface(name)
        (machine.interfaces / name / f"lower_{lower}").write_text("")
    machine.route("0.0.0.0/0", "a0")
    assert machine.metered(FLEET4) is True


def test_without_a_route_a_modem_that_is_up_counts(machine: Machine) -> None:
    assert machine.metered(FLEET4) is True
    (machine.interfaces / "wwan0/operstate").write_text("down\n")
    assert machine.metered(FLEET4) is None
    machine.routes.write_bytes(b"\xff" * 100)
    machine.routes.with_name("ipv6_route").write_bytes(b"\xff\n\x00 1 2 3\n")
    assert machine.metered(FLEET4) is None


def test_the_fleet_is_looked_up_and_a_name_server_that_is_away_changes_nothing(machine: Machine) -> None:
    answers = [[FLEET4], [], OSError]
    machine.route("0.0.0.0/0", "wwan0")
    machine.route("203.0.113.0/24", "eth0")
    asked: list[tuple[str, int]] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        found = answers[len(asked) - 1]
        assert isinstance(found, list)
        return found

    asking = Metering(MODEM, machine.routes, "fleet.example", 8443, machine.interfaces, resolve)
    assert [asking(), asking()] == [False, False]
    asking._resolve_at = 0.0
    assert asking() is False
    assert asked == [("fleet.example", 8443)] * 2
    assert resolved("no such host.invalid", 1) == []
    assert "127.0.0.1" in resolved("127.0.0.1", 443)


def test_the_tables_of_this_machine_are_read_as_the_kernel_means_them() -> None:
    """Where this machine has a route to a documentation address, the kernel names the same interface's address."""
    routes = [*ipv4_routes(Path("/proc/net/route").read_text(encoding="ascii"))]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((FLEET4, 9))
        except OSError:
            assert best_interface(routes, FLEET4) is None
        else:
            assert best_interface(routes, FLEET4) is not None


_rows = st.lists(st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128), st.integers(0, 1000)), max_size=20)


@given(_rows, st.integers(0, 2**128 - 1))
def test_the_longest_prefix_is_pythons(rows: list[tuple[int, int, int]], number: int) -> None:
    networks = [(IPv6Network((network, prefix), strict=False), metric) for network, prefix, metric in rows]
    routes = [
        Route(6, int(network.network_address), network.prefixlen, metric, f"i{place}")
        for place, (network, metric) in enumerate(networks)
    ]
    address = IPv6Address(number)
    if address.is_loopback or address.ipv4_mapped is not None:
        return
    fitting = [each for each in networks if address in each[0]]
    found = best_interface(routes, str(address))
    if not fitting:
        assert found is None
    else:
        assert found is not None
        network, metric = networks[int(found[1:])]
        assert (-network.prefixlen, metric) == min((-each.prefixlen, cost) for each, cost in fitting)


@given(st.text(max_size=300))
def test_no_table_raises(text: str) -> None:
    list(ipv4_routes(text))
    list(ipv6_routes(text))
