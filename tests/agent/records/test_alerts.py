"""The spool knows which alerts are open, also after a kill, a restart or damage."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.agent.spool_kit import alert, kill, record
from wheeltapper_agent.records.database import STATE_EVERY
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.records.state import State
from wheeltapper_protocols.wire.messages import Severity


def _severities(spool: Spool) -> tuple[Severity, Severity]:
    return spool.open_alert("main"), spool.open_alert("pump")


def _with_open_alerts(path: Path) -> Spool:
    spool = Spool(path)
    assert _severities(spool) == (Severity.NORMAL, Severity.NORMAL)
    spool.append(record(0), alert(0))
    spool.append(record(0, "pump"), alert(0, pipeline="pump"))
    spool.append(record(1), msgspec.structs.replace(alert(1), severity=Severity.CRITICAL))
    spool.append(record(1, "pump"), alert(1, pipeline="pump", raised=False))
    assert _severities(spool) == (Severity.CRITICAL, Severity.NORMAL)
    return spool


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("acked", [False, True])
@pytest.mark.parametrize("more", [0, 2 * STATE_EVERY])
def test_an_open_alert_is_known_after_a_restart(tmp_path: Path, killed: bool, acked: bool, more: int) -> None:
    spool = _with_open_alerts(tmp_path / "s.db")
    for at in range(more):  # past the next row that says where the spool stands
        spool.append(record(2 + at))
    if acked:
        spool.ack(spool.epoch, spool.newest)
        spool._forget_at = 0.0
        spool.flush()
        assert spool.figures().held == 0
    (kill if killed else Spool.close)(spool)
    spool = Spool(tmp_path / "s.db")
    assert _severities(spool) == (Severity.CRITICAL, Severity.NORMAL)
    spool.append(alert(2, raised=False))
    assert _severities(spool) == (Severity.NORMAL, Severity.NORMAL)
    kill(spool)
    spool = Spool(tmp_path / "s.db")
    assert _severities(spool) == (Severity.NORMAL, Severity.NORMAL)
    spool.close()


def test_an_open_alert_outlives_a_damaged_spool(tmp_path: Path) -> None:
    spool = _with_open_alerts(tmp_path / "s.db")
    assert spool.ack(spool.epoch, 1000)  # beyond what was given: the file went back
    assert _severities(spool) == (Severity.CRITICAL, Severity.NORMAL)
    kill(spool)
    spool = Spool(tmp_path / "s.db")
    assert _severities(spool) == (Severity.CRITICAL, Severity.NORMAL)
    spool.close()


def test_an_append_that_failed_opens_no_alert(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db")
    spool._connection.execute("PRAGMA query_only=1")
    with pytest.raises(Exception, match="readonly"):
        spool.append(record(0), alert(0))
    assert spool.open_alert("main") is Severity.NORMAL
    spool.close()


def test_a_stored_state_without_alerts_has_none_open() -> None:
    old = msgspec.json.encode({"epoch": "00112233445566aa", "seq": 7, "windows": {"main": 7}})
    assert msgspec.json.decode(old, type=State).alerts == {}
