"""What an OPC UA server says of its values: uncertain, bad, stale, no numbers; and a server that numbers its namespaces
anew."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asyncua import Server, ua
from asyncua.server.internal_session import InternalSession
from numpy.typing import NDArray

from tests.agent.servers import free_port, until
from tests.agent.source.rig import RunningSource, concatenated, open_source, running
from tests.agent.source.servers import Loop
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import source_faults
from wheeltapper_agent.source.opcua_nodes import Namespaces, NodeConfig, reading

OURS = "urn:test:spindle"


class SpindleServer:
    """A server without encryption whose nodes ``a``, ``b`` and ``wave`` are in the namespace :data:`OURS`, after
    ``others`` namespaces."""

    def __init__(self, others: int = 0, port: int = 0) -> None:
        self.port = port or free_port()
        self.url = f"opc.tcp://127.0.0.1:{self.port}"
        self.loop = Loop()
        self.nodes: dict[str, Any] = {}
        self._server = Server()

        async def make() -> None:
            await self._server.init()
            self._server.set_endpoint(self.url)
            self._server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
            for number in range(others):
                other = await self._server.register_namespace(f"urn:test:other:{number}")
                await self._server.nodes.objects.add_variable(ua.NodeId("a", other), "decoy", -99.0)
            self.index: int = await self._server.register_namespace(OURS)
            for name, value in (("a", 1.0), ("b", 2.0), ("wave", [0.0, 0.0])):
                node = ua.NodeId(name, self.index)
                self.nodes[name] = await self._server.nodes.objects.add_variable(node, name, value)
            await self._server.start()

        self.loop.do(make(), 60)

    def write(self, name: str, value: Any, status: int = ua.StatusCodes.Good, age_seconds: float = 0.0) -> None:
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        stamp = now - datetime.timedelta(seconds=age_seconds)
        found = ua.DataValue(
            ua.Variant(value), StatusCode=ua.StatusCode(status), SourceTimestamp=stamp, ServerTimestamp=now
        )
        self.loop.do(self._server.write_attribute_value(self.nodes[name].nodeid, found))

    def close(self) -> None:
        self.loop.do(self._server.stop())
        self.loop.close()


@pytest.fixture(scope="module")
def server() -> Iterator[SpindleServer]:
    made = SpindleServer()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _good_values(server: SpindleServer) -> None:
    server.write("a", 1.0)
    server.write("b", 2.0)


def _source(server: SpindleServer, more: str = "", nodes: str = "", **ids: str) -> str:
    ids = ids or {"a": f"ns={server.index};s=a", "b": f"ns={server.index};s=b"}
    nodes = nodes or ", ".join(f"{{ name = '{name}', node_id = '{node_id}' }}" for name, node_id in ids.items())
    return (
        f"kind = 'opcua'\nurl = '{server.url}'\nsample_rate_hz = 20\nwindow_samples = 4\ntimeout_seconds = 1.0\n"
        f"retry_first_seconds = 0.05\nretry_max_seconds = 0.2\nnodes = [{nodes}]\n{more}"
    )


def _named(taken: RunningSource, text: str) -> int:
    """How often a fault with this text occurred."""
    return sum(fault.times for fault in source_faults(taken.source) if text in fault.text)


def _last(taken: RunningSource) -> NDArray[Any]:
    """The newest sample of a window that was taken: a busy computer misses some."""

    def complete() -> NDArray[Any]:
        found = concatenated(taken.windows) if taken.windows else np.empty((0, 1))
        return found[np.isfinite(found).any(axis=1)]

    until(lambda: len(complete()), 15, f"a sample (state {taken.source.state})")
    return np.array(complete()[-1])


@pytest.mark.parametrize("mode", ["poll", "subscribe"])
@pytest.mark.parametrize(
    "status", [ua.StatusCodes.UncertainSensorNotAccurate, ua.StatusCodes.UncertainLastUsableValue | 0x0400]
)
def test_an_uncertain_value_is_missing_and_named_unless_it_is_accepted(
    tmp_path: Path, server: SpindleServer, mode: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.write("a", 7.0, status)
    name = "UncertainSensorNotAccurate" if status & 0xFFFF == 0 else "UncertainLastUsableValue"
    with running(tmp_path, _source(server, f"mode = '{mode}'")) as taken:
        until(lambda: _named(taken, name) >= 6, 15, "the status")
        assert taken.source.state == "running"  # b is there
        np.testing.assert_array_equal(_last(taken), [math.nan, 2])
        assert "accept_uncertain" in source_faults(taken.source)[0].text
    assert caplog.text.count(name) == 1
    with running(tmp_path, _source(server, f"mode = '{mode}'\naccept_uncertain = true")) as taken:
        until(lambda: _last(taken)[0] == 7, 15, "the value")
        assert not source_faults(taken.source)


def test_a_server_with_bad_values_only_says_so(tmp_path: Path, server: SpindleServer) -> None:
    for name in ("a", "b"):
        server.write(name, 1.0, ua.StatusCodes.BadSensorFailure)
    with running(tmp_path, _source(server, "accept_uncertain = true")) as taken:
        taken.until_state("source.no_value")
        assert _named(taken, "a: BadSensorFailure")
        assert _named(taken, "b: BadSensorFailure")
        server.write("a", 1.0)
        taken.until_state("running")
        until(lambda: any(fault.over for fault in source_faults(taken.source)), 10, "the end of one fault")


def test_a_bad_array_is_counted_with_its_status(tmp_path: Path, server: SpindleServer) -> None:
    nodes = f"{{ name = 'w', node_id = 'ns={server.index};s=wave' }}"
    server.write("wave", [1.0] * 8, ua.StatusCodes.UncertainSubNormal)
    with running(tmp_path, _source(server, "mode = 'subscribe'\narray = true", nodes)) as taken:
        taken.until_state("source.payload")
        assert _named(taken, "UncertainSubNormal") == 1
    with running(
        tmp_path, _source(server, "mode = 'subscribe'\narray = true\naccept_uncertain = true", nodes)
    ) as taken:
        np.testing.assert_array_equal(concatenated(taken.until(2)), np.ones((8, 1)))


def test_a_value_that_stopped_to_be_measured_is_missing(tmp_path: Path, server: SpindleServer) -> None:
    server.write("a", 1.0, age_seconds=30)
    with running(tmp_path, _source(server, "stale_seconds = 20")) as taken:
        until(lambda: _named(taken, "older than 20 s"), 15, "the age")
        np.testing.assert_array_equal(_last(taken), [math.nan, 2])
    with running(tmp_path, _source(server)) as taken:
        np.testing.assert_array_equal(_last(taken), [1, 2])
    with pytest.raises(AgentError) as refused:
        open_source(tmp_path, _source(server, "stale_seconds = 20\nmode = 'subscribe'"))
    assert refused.value.code == "config.invalid"


NODE = NodeConfig(name="x", node_id="ns=2;s=x", scale=0.5, offset=1.0)


@pytest.mark.parametrize(
    ("value", "number", "reason"),
    [
        (3.0, 2.0, ""),
        (True, 1.0, ""),
        (2**40 - 1, 2.0**39, ""),
        ("3.0", math.nan, "str, not a number"),
        ([1.0], math.nan, "list, not a number"),
        (math.nan, math.nan, "the value nan, which no sensor gives"),
        (math.inf, math.nan, "the value inf, which no sensor gives"),
        (-3.4028235e38, math.nan, "the value -3.40282e+38, which no sensor gives"),
    ],
)
def test_values_that_are_numbers_and_others(value: Any, number: float, reason: str) -> None:
    found = reading(NODE, ua.DataValue(ua.Variant(value)), False, 0.0)
    np.testing.assert_array_equal(found.value, number)
    assert found.reason == reason


def test_nothing_reported_yet_is_no_fault() -> None:
    assert reading(NODE, None, False, 0.0).reason == ""


def test_a_namespace_is_found_by_its_uri(tmp_path: Path, server: SpindleServer) -> None:
    with running(tmp_path, _source(server, a=f"nsu={OURS};s=a")) as taken:
        assert _last(taken)[0] == 1
    with running(tmp_path, _source(server, a="nsu=urn:nobody;s=a")) as taken:
        taken.until_state("source.refused")
        assert _named(taken, "no namespace urn:nobody; it has")


def test_a_server_that_comes_back_with_other_numbers_gives_the_same_node(tmp_path: Path) -> None:
    first = SpindleServer()
    with running(tmp_path, _source(first, a=f"ns={first.index};s=a")) as taken:
        assert _last(taken)[0] == 1
        first.close()
        taken.until_state("source.unreachable", seconds=20)
        second = SpindleServer(others=1, port=first.port)
        assert second.index != first.index
        second.write("a", 5.0)
        count = len(taken.windows)
        until(lambda: len(taken.windows) > count + 1, 30, "windows again")
        assert _last(taken)[0] == 5  # and not -99 of the namespace that has the number now
    second.close()


def test_namespaces_that_move() -> None:
    names = Namespaces([NodeConfig(name="a", node_id="ns=2;i=7"), NodeConfig(name="b", node_id="i=2258")])
    assert names.resolve(["ua", "app", "x"])[0] == ua.NodeId(7, 2)
    moved = names.resolve(["ua", "app", "new", "x"])
    assert moved == [ua.NodeId(7, 3), ua.NodeId(2258, 0)]
    with pytest.raises(AgentError) as refused:
        names.resolve(["ua", "app"])
    assert refused.value.code == "source.refused"
    assert Namespaces([NodeConfig(name="a", node_id="ns=2;i=7")]).resolve([])[0] == ua.NodeId(7, 2)


def test_a_server_that_reads_one_node_at_once(
    tmp_path: Path, server: SpindleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = InternalSession.read

    async def limited(session: Any, params: Any) -> Any:
        if len(params.NodesToRead) > 1:
            raise ua.uaerrors.BadTooManyOperations
        return await read(session, params)

    monkeypatch.setattr(InternalSession, "read", limited)
    with running(tmp_path, _source(server)) as taken:
        np.testing.assert_array_equal(_last(taken), [1, 2])


@pytest.mark.parametrize("url", ["http://127.0.0.1:4840", "opc.tcp://", "127.0.0.1:4840", "opc.tcp://x:99999"])
def test_a_url_that_is_none_is_refused(tmp_path: Path, server: SpindleServer, url: str) -> None:
    with pytest.raises(AgentError) as refused:
        open_source(tmp_path, _source(server).replace(server.url, url))
    assert refused.value.code == "config.invalid"
    assert "opc.tcp://host:4840" in refused.value.message


def test_what_a_node_holds_instead_of_a_number_is_said(tmp_path: Path, server: SpindleServer) -> None:
    with running(tmp_path, _source(server, w=f"ns={server.index};s=wave")) as taken:
        taken.until_state("source.refused")
        assert _named(taken, "holds no number but a list; array = true")


def test_values_that_repeat_because_the_server_is_slow_are_named(tmp_path: Path, server: SpindleServer) -> None:
    def set_least(milliseconds: float) -> None:
        value = ua.DataValue(ua.Variant(milliseconds, ua.VariantType.Double))
        server.loop.do(server.nodes["a"].write_attribute(ua.AttributeIds.MinimumSamplingInterval, value))

    set_least(1000.0)
    with running(tmp_path, _source(server)) as taken:
        taken.until(1)
        assert _named(taken, "measures node a each 1000 ms at most and it is taken each 50 ms") == 1
    set_least(50.0)
    with running(tmp_path, _source(server)) as taken:
        taken.until(1)
        assert not source_faults(taken.source)
