"""What devices say of their baselines: shown with the device, written in its log once, refused ones noticed."""

from __future__ import annotations

from sqlalchemy import Engine

from tests.fleet.devices.test_selection import keep
from wheeltapper_fleet.cli.devices import _baseline
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.log import list_log
from wheeltapper_fleet.devices.notices import notices_of
from wheeltapper_fleet.devices.views import get_device
from wheeltapper_fleet.ingest.apply import apply_batch
from wheeltapper_fleet.ingest.message import DeviceMessage
from wheeltapper_protocols.wire.messages import (
    BaselineFeature,
    BaselineReport,
    BaselineStatus,
    PipelineStatus,
    Report,
    Status,
)

EPOCH = "00112233445566aa"
REFUSED = BaselineStatus(phase="refused", windows=300, outside=300)
LEARNED = BaselineStatus(
    phase="learned",
    learned=300,
    windows=300,
    outside=2,
    limited=1,
    features=[BaselineFeature(feature="x.rms", shift=3.0, ratio=1.25, limited=True)],
)


def say(engine: Engine, *said: Report | Status) -> None:
    with engine.begin() as connection:
        apply_batch(connection, [DeviceMessage("dev-1", each) for each in said], [], 1000.0)


def report(seq: int, event: str, status: BaselineStatus) -> Report:
    body = BaselineReport(pipeline="main", model="pump", release=2, event=event, baseline=status)
    return Report(epoch=EPOCH, oldest=1, seq=seq, at=999.0, body=body)


def log(engine: Engine) -> list[tuple[str, str]]:
    entries = [each for each in list_log(engine, "dev-1").items if each.event == "baseline"]
    return [(each.who, each.detail) for each in entries]


def test_a_refused_baseline_is_noticed_until_it_is_learned_or_reset(engine: Engine) -> None:
    keep(engine, {"dev-1": {"online": True}})
    refused = report(1, "refused", REFUSED)
    say(engine, refused, refused)
    say(engine, refused)
    assert log(engine) == [
        ("dev-1", "main, pump 2: refused: 300 windows were far from what the fleet knows, or not healthy")
    ], "a report that comes again is written once"
    with reading(engine) as connection:
        found = notices_of(connection, "dev-1")
    assert [each.code for each in found] == ["baseline.refused/main"]
    assert "look at the machine" in found[0].detail
    say(engine, report(2, "reset", BaselineStatus(phase="learning", windows=300)), report(3, "learned", LEARNED))
    assert [detail for _, detail in log(engine)][:2] == [
        "main, pump 2: learned from 300 windows; 1 features differ more than the release allows",
        "main, pump 2: reset; it is learnt anew",
    ]
    with reading(engine) as connection:
        assert notices_of(connection, "dev-1") == []


def test_it_is_shown_with_the_device(engine: Engine) -> None:
    keep(engine, {"dev-1": {"online": True}})
    plain = PipelineStatus(model="pump", release=2)
    learns = PipelineStatus(model="pump", release=2, baseline=LEARNED, partly_scored=7)
    say(engine, Status(online=True, at=999.0, pipelines={"main": learns, "other": plain}))
    main, other = get_device(engine, "dev-1", 1000.0).pipelines
    assert other.baseline is None
    assert (main.partly_scored, other.partly_scored) == (7, 0)
    assert main.baseline is not None
    shown = main.baseline.model_dump()
    assert (shown["phase"], shown["learned"], shown["features"][0]["feature"]) == ("learned", 300, "x.rms")
    assert _baseline(shown) == (
        "learned from 300 windows, 2 outside, 1 features at their limit; differs most in x.rms +3"
    )
    assert _baseline(shown | {"phase": "learning", "learned": 7}) == "learning, 7 of 300 windows, 2 outside"
    assert "REFUSED: 2 windows" in _baseline(shown | {"phase": "refused"})
