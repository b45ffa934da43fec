"""Nodes of a real asyncua server: polled, subscribed, arrays, bad status, a server that dies or refuses."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from asyncua import ua

from tests.agent.servers import until
from tests.agent.source.rig import concatenated, open_source, running
from tests.agent.source.servers import OpcuaServer
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source import opcua

A_AND_B = (
    '{ name = "a", node_id = "ns=1;s=a", scale = 2, unit = "mm/s" }, { name = "b", node_id = "ns=1;s=b", offset = 1 }'
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("opcua")


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[OpcuaServer]:
    made = OpcuaServer(folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def ticking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpcuaServer]:
    """A server that was never stopped: asyncua's clock stands still after that."""
    made = OpcuaServer(tmp_path_factory.mktemp("ticking"))
    yield made
    made.close()


def _source(url: str, nodes: str = A_AND_B, more: str = "", rate_hz: float = 20) -> str:
    return (
        f"kind = 'opcua'\nurl = '{url}'\nsample_rate_hz = {rate_hz}\nwindow_samples = 4\ntimeout_seconds = 1.0\n"
        f"retry_first_seconds = 0.05\nretry_max_seconds = 0.2\nnodes = [{nodes}]\n{more}"
    )


@pytest.mark.parametrize("mode", ["poll", "subscribe"])
def test_values_and_bad_status(tmp_path: Path, shared: OpcuaServer, mode: str) -> None:
    shared.write("a", 1.0)
    shared.write("b", 2.0)
    with running(tmp_path, _source(shared.url, more=f"mode = '{mode}'")) as taken:
        until(lambda: taken.windows and np.array_equal(taken.windows[-1].samples[-1], [2, 3]), 10, "the values")
        assert taken.source.spec.units == ("mm/s", "")
        shared.write("a", 5.0)
        until(lambda: taken.windows[-1].samples[-1, 0] == 10, 10, "the new value")
        bad = ua.DataValue(ua.Variant(9.0), StatusCode=ua.StatusCode(ua.StatusCodes.BadSensorFailure))
        shared.write("a", bad)
        until(lambda: np.isnan(taken.windows[-1].samples[-1, 0]), 10, "the missing value")
        assert taken.windows[-1].samples[-1, 1] == 3
        shared.write("a", 1.0)
        until(lambda: taken.windows[-1].samples[-1, 0] == 2, 10, "the value again")


def test_arrays_with_their_times(tmp_path: Path, shared: OpcuaServer) -> None:
    source = _source(
        shared.url, '{ name = "w", node_id = "ns=1;s=wave", scale = 0.5 }', "mode='subscribe'\narray=true", 100
    )
    began = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

    def write(first: int) -> None:
        ended = began + datetime.timedelta(seconds=(first + 10) / 100)
        values = ua.Variant([float(value) for value in range(first, first + 10)])
        shared.write("wave", ua.DataValue(values, SourceTimestamp=ended.replace(tzinfo=None)))

    write(0)
    with running(tmp_path, source) as taken:
        taken.until(2)
        write(10)
        taken.until(5)
        write(32)
        found = concatenated(taken.until(7))[:, 0]
        np.testing.assert_array_equal(found[:20], np.arange(20) / 2)
        gaps = [window.gap_samples for window in taken.windows[:7]]
        assert sum(gaps) == 12
        np.testing.assert_array_equal(taken.windows[5].samples[:, 0], np.arange(32, 36) / 2)
        assert taken.windows[5].t_s == pytest.approx(began.timestamp() + 0.32, abs=1e-3)


@pytest.mark.parametrize("mode", ["poll", "subscribe"])
def test_a_server_that_dies_is_found_again(tmp_path: Path, shared: OpcuaServer, mode: str) -> None:
    with running(tmp_path, _source(shared.url, more=f"mode = '{mode}'")) as taken:
        taken.until(1)
        shared.kill()
        taken.until_state("source.unreachable", seconds=20)
        count = len(taken.windows)
        shared.start()
        taken.until_state("running", seconds=20)
        after = taken.until(count + 3)[count:]
        assert sum(window.gap_samples for window in after) + int(np.isnan(concatenated(after)).sum()) > 0


@pytest.mark.parametrize("node", ["ns=1;s=nothing", "ns=1;s=text", "ns=9;i=1"])
def test_nodes_that_never_give_a_number_are_refused(tmp_path: Path, shared: OpcuaServer, node: str) -> None:
    with running(tmp_path, _source(shared.url, f'{{ name = "x", node_id = "{node}" }}')) as taken:
        taken.until_state("source.refused")


def test_encrypted_with_a_password(tmp_path: Path, folder: Path, shared: OpcuaServer) -> None:
    (tmp_path / "secret").write_text("swordfish\n")
    (tmp_path / "secret").chmod(0o600)
    more = (
        f"security = 'Basic256Sha256'\ncertificate_file = '{folder}/client.der'\nkey_file = '{folder}/client.pem'\n"
        f"server_certificate_file = '{folder}/server.der'\nusername = 'agent'\npassword_file = 'secret'"
    )
    with running(tmp_path, _source(shared.url, more=more)) as taken:
        taken.until(1)
        assert taken.source.state == "running"
    (tmp_path / "secret").write_text("cheese")
    with running(tmp_path, _source(shared.url, more=more)) as taken:
        taken.until_state("source.refused")
    with running(tmp_path, _source(shared.url, more=more.replace("server.der", "client.der"))) as taken:
        taken.until_state("source.unreachable", "source.refused")
        assert not taken.windows


def test_secrets_and_certificates_must_be_private(tmp_path: Path, shared: OpcuaServer) -> None:
    (tmp_path / "p").write_text("swordfish")
    (tmp_path / "p").chmod(0o640)
    with running(tmp_path, _source(shared.url, more="username = 'x'\npassword_file = 'p'")) as taken:
        taken.until_state("source.secret")
    (tmp_path / "k").write_text("key")
    files = "certificate_file = 'c'\nkey_file = 'k'\nserver_certificate_file = 's'"
    with running(tmp_path, _source(shared.url, more=f"security = 'Basic256Sha256'\n{files}")) as taken:
        taken.until_state("source.secret")


@pytest.mark.parametrize(
    "more",
    [
        "array = true",
        "mode = 'subscribe'\narray = true",
        "security = 'Basic256Sha256'",
        "channels = ['q']",
        "units = ['g']",
    ],
)
def test_impossible_configurations(tmp_path: Path, more: str) -> None:
    with pytest.raises(AgentError) as refused:
        open_source(tmp_path, _source("opc.tcp://127.0.0.1:1", more=more))
    assert refused.value.code == "config.invalid"
    with pytest.raises(AgentError) as refused:
        open_source(tmp_path, _source("opc.tcp://127.0.0.1:1", '{ name = "x", node_id = "cheese" }'))
    assert refused.value.code == "config.invalid"


@pytest.mark.parametrize("array", [False, True])
def test_a_subscription_that_the_server_forgot_is_made_again(
    tmp_path: Path,
    ticking: OpcuaServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    array: bool,
) -> None:
    monkeypatch.setattr(opcua, "_SILENCE_SECONDS", 3.0)
    nodes = '{ name = "w", node_id = "ns=1;s=wave" }' if array else A_AND_B
    ticking.write("a", 1.0)
    ticking.write("wave", ua.DataValue(ua.Variant([1.0] * 8)))
    with running(tmp_path, _source(ticking.url, nodes, f"mode = 'subscribe'\narray = {str(array).lower()}")) as taken:
        taken.until(1)
        time.sleep(2.5)  # the server's clock was told twice
        ticking.forget_subscriptions()
        until(lambda: "ended the subscription: no notification for" in caplog.text, 10, "the end")
        ticking.write("a", 7.0)
        ticking.write("wave", ua.DataValue(ua.Variant([14.0] * 8)))
        until(lambda: taken.windows[-1].samples[-1, 0] == 14, 10, "the present value")
        time.sleep(4)  # a quiet machine is no dead subscription
        assert caplog.text.count("ended the subscription") == 1
        assert taken.source.state == "running"


def test_a_node_that_the_server_does_not_watch_is_refused(
    tmp_path: Path, ticking: OpcuaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pass_all(*_: object) -> None: ...

    monkeypatch.setattr(opcua.OpcuaReader, "_check", pass_all)  # it was there a moment ago
    nodes = f'{A_AND_B}, {{ name = "x", node_id = "ns=1;s=nothing" }}'
    with running(tmp_path, _source(ticking.url, nodes, "mode = 'subscribe'")) as taken:
        taken.until_state("source.refused")


def test_the_servers_word_that_a_subscription_is_over(tmp_path: Path, ticking: OpcuaServer) -> None:
    with running(
        tmp_path, _source(ticking.url, more="mode = 'subscribe'").replace("= 0.05", "= 5").replace("= 0.2\n", "= 5\n")
    ) as taken:
        taken.until(1)
        ticking.end_subscriptions(ua.StatusCodes.BadTimeout)
        taken.until_state("source.unreachable")
