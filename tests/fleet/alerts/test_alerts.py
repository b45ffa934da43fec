"""An alert says on the page what the device said: label, value with its unit, zone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import JSON, Engine, column, create_engine, insert, table, text

import wheeltapper_fleet.db.engine as db
from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.access.sessions import COOKIE
from wheeltapper_fleet.alerts.views import list_alerts
from wheeltapper_fleet.ingest.apply import apply_batch
from wheeltapper_fleet.ingest.message import DeviceMessage
from wheeltapper_protocols.wire.messages import Alert, Severity

EPOCH = "00112233445566aa"
OLD_RECORDS = table(
    "records",
    *(column(name) for name in ("device", "epoch", "seq", "kind", "received_at", "pipeline", "window", "t_s", "model")),
    *(column(name) for name in ("release", "score", "severity")),
    column("body", JSON),
)
SAID: list[dict[str, Any]] = [
    {"label": "inner race"},
    {"value": 41.5, "unit": "hours"},
    {"value": 0.0},
    {"zone": "D", "label": "imbalance"},
    {},
]


def alerts() -> list[Alert]:
    fields: dict[str, Any] = {"epoch": EPOCH, "oldest": 1, "pipeline": "main", "window": 1, "t_s": 1.0, "at": 1.0}
    fields |= {"model": "m", "release": 1, "score": 2.0, "severity": Severity.WARNING}
    return [Alert(**fields, seq=seq, **said) for seq, said in enumerate(SAID, start=1)]


def store(engine: Engine) -> None:
    with engine.begin() as connection:
        apply_batch(connection, [DeviceMessage("dev-1", alert) for alert in alerts()], [], 1.0)


def shown(engine: Engine) -> list[dict[str, Any]]:
    views = [
        view.model_dump(include={"label", "value", "unit", "zone"}) for view in reversed(list_alerts(engine).items)
    ]
    return [{name: value for name, value in view.items() if value is not None} for view in views]


def test_the_api_gives_what_the_device_said(engine: Engine) -> None:
    store(engine)
    assert shown(engine) == SAID


@pytest.fixture
def page(server: AdminServer) -> str:
    store(server.engine)
    answer = httpx.get(f"{server.url}/fragments/alerts", cookies={COOKIE: server.sign_in()}, trust_env=False)
    assert answer.status_code == 200
    return " ".join(answer.text.split())


@pytest.mark.parametrize("said", ["inner race", "41.5 hours</b> left", "<b>0</b> left", "imbalance", "zone D"])
def test_the_page_shows_what_the_device_said(page: str, said: str) -> None:
    assert said in page


def test_older_alerts_get_what_their_records_hold(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/fleet.db")
    config = Config()
    config.set_main_option("script_location", str(Path(db.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for alert in alerts():
            row = {"device": "dev-1", "epoch": EPOCH, "seq": alert.seq, "pipeline": "main", "window": 1, "t_s": 1.0}
            row |= {"model": "m", "release": 1, "score": 2.0, "severity": "warning"}
            body = msgspec.to_builtins(alert)
            connection.execute(insert(OLD_RECORDS).values(**row, kind="alert", received_at=1.0, body=body))
            names = ", ".join([*row, "at", "raised", "reasons"])
            values = ", ".join(f":{name}" for name in [*row, "at", "raised", "reasons"])
            statement = text(f"INSERT INTO alerts ({names}) VALUES ({values})")  # names of this file
            connection.execute(statement, {**row, "at": 1.0, "raised": True, "reasons": "[]"})
    engine.dispose()
    opened = db.open_database(f"sqlite:///{tmp_path}/fleet.db")
    assert shown(opened) == SAID
    opened.dispose()


def test_an_alert_that_was_raised_slowly_says_so(engine: Engine) -> None:
    plain = alerts()[-1]
    with engine.begin() as connection:
        said = [plain, msgspec.structs.replace(plain, seq=9, slowly=True)]
        apply_batch(connection, [DeviceMessage("dev-1", alert) for alert in said], [], 1.0)
    assert [view.slowly for view in reversed(list_alerts(engine).items)] == [False, True]
