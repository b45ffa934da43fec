"""Webhooks and mails to real servers on loopback: signed, repeated, given up, one by one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.fleet.notify.servers import Receiver, certificate, mail_server, receiving
from wheeltapper_fleet.config import load_config
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.notify import service
from wheeltapper_fleet.notify.delivery import Delivery
from wheeltapper_fleet.notify.occurrence import Occurrence, OccurrenceKind
from wheeltapper_fleet.notify.outbox import announce
from wheeltapper_fleet.notify.rules import MAX_ATTEMPTS, Rules, pause_seconds, wants
from wheeltapper_fleet.notify.schemas import NotificationView, TargetChange, TargetRequest
from wheeltapper_fleet.notify.settings import NotifySettings, read_settings
from wheeltapper_fleet.notify.signing import sign
from wheeltapper_fleet.notify.views import get_target, list_notifications, list_targets
from wheeltapper_fleet.notify.webhook import SendError, check_url, send_webhook

LOOPBACK = ("127.0.0.0/8",)
NOW = 1.79e9
DAY = 86_400.0


def occurrence(**changes: Any) -> Occurrence:
    fields: dict[str, Any] = {
        "kind": OccurrenceKind.CASE_OPENED,
        "subject": "case 7",
        "title": "case 7 opened",
        "at": NOW,
    }
    fields |= {"severity": "critical", "site": "works", "model": "m", "data": {"case": {"id": 7}, "why": ["zone D"]}}
    return Occurrence(**{**fields, **changes})


class Desk:
    """A fleet that tells, at a clock that stands still."""

    def __init__(self, engine: Engine, **settings: Any) -> None:
        self.engine = engine
        self.delivery = Delivery(engine, NotifySettings(**{"allow_private": LOOPBACK, **settings}))

    def add(self, name: str, address: str, **rules: Any) -> str | None:
        kind = "mail" if "@" in address else "webhook"
        asked = TargetRequest.model_validate({"id": name, "kind": kind, "address": address, **rules})
        return service.create_target(self.engine, asked, "ann", NOW)

    def tell(self, *occurrences: Occurrence) -> None:
        with self.engine.begin() as connection:
            announce(connection, occurrences or [occurrence()])

    def turn(self, now: float = NOW) -> None:
        self.delivery.turn(now)
        self.delivery.wait()

    def sent(self, **filters: Any) -> list[NotificationView]:
        return list_notifications(self.engine, **filters).items[::-1]


@pytest.fixture
def desk(engine: Engine) -> Iterator[Desk]:
    made = Desk(engine)
    yield made
    made.delivery.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The value is what the specification's own Python library makes of the same input."""
    secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    assert sign(secret, "msg_1", 1_790_000_000, b'{"type":"test"}') == "v1,HoLfhNbFCHqj4b3lGCJLotglDY52qga20yHA49lKPIY="


def test_a_webhook_arrives_signed_and_once(desk: Desk, receiver: Receiver) -> None:
    secret = desk.add("ops", receiver.url)
    assert secret is not None
    desk.tell()
    desk.turn()
    desk.turn(NOW + 1)
    [(headers, body)] = receiver.got
    [row] = desk.sent()
    assert (row.state, row.attempts, row.message) == ("sent", 1, headers["webhook-id"])
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{wanted}"
    assert int(headers["webhook-timestamp"]) == int(NOW)
    told = json.loads(body)
    assert (told["type"], told["data"]["case"]["id"], told["severity"]) == ("case.opened", 7, "critical")
    assert get_target(desk.engine, "ops").sent_at == NOW


def test_what_fails_is_tried_again_with_the_same_id_and_in_order(desk: Desk, receiver: Receiver) -> None:
    desk.add("ops", receiver.url)
    receiver.answers = [503, 429]
    desk.tell(occurrence(title="first"), occurrence(title="second"))
    desk.turn()
    assert [(row.state, row.attempts) for row in desk.sent()] == [("waiting", 1), ("waiting", 0)]
    desk.turn(NOW + 1)
    assert len(receiver.got) == 1  # it is left alone for a while
    target = get_target(desk.engine, "ops")
    assert (target.failures, target.retry_at, target.error) == (1, NOW + 30, "it answered with status 503")
    desk.turn(NOW + 31)
    desk.turn(NOW + 200)
    assert [row.state for row in desk.sent()] == ["sent", "sent"]
    ids = [headers["webhook-id"] for headers, _ in receiver.got]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert get_target(desk.engine, "ops").failures == 0


def test_what_the_receiver_refuses_is_dead_and_stops_no_other(
    desk: Desk, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    desk.add("ops", f"{receiver.url}/a-secret-path")
    receiver.answers = [413]
    with caplog.at_level(logging.WARNING):
        desk.tell(occurrence(title="first"), occurrence(title="second"))
        desk.turn()
    assert [(row.state, row.error) for row in desk.sent()] == [("dead", "it answered with status 413"), ("sent", None)]
    assert "a-secret-path" not in caplog.text
    first = desk.sent()[0]
    service.resend(desk.engine, first.id, NOW + 5)
    desk.turn(NOW + 5)
    assert [row.state for row in desk.sent()] == ["sent", "sent"]
    with pytest.raises(FleetError, match=r"notify\.not_dead"):
        service.resend(desk.engine, first.id, NOW + 6)


def test_attempts_end(desk: Desk, receiver: Receiver) -> None:
    desk.add("ops", receiver.url)
    desk.tell()
    now = NOW
    receiver.answers = [500] * MAX_ATTEMPTS
    for _ in range(MAX_ATTEMPTS):
        desk.turn(now)
        now += 6.5 * 3600  # more than the longest pause; all of them within three days
    [row] = desk.sent()
    assert (row.state, row.attempts) == ("dead", MAX_ATTEMPTS)
    assert len(receiver.got) == MAX_ATTEMPTS


def test_what_waits_for_days_is_given_up_and_what_is_old_is_forgotten(desk: Desk, receiver: Receiver) -> None:
    desk.add("gone", "https://127.0.0.1:1/")
    desk.add("ops", receiver.url)
    desk.tell()
    desk.turn()
    desk.delivery.turn(NOW + 3 * DAY + 100)
    assert {row.target: row.state for row in desk.sent()} == {"gone": "dead", "ops": "sent"}
    desk.delivery.turn(NOW + 31 * DAY)
    assert desk.sent() == []


def test_a_target_that_hangs_holds_up_no_other(desk: Desk, receiver: Receiver) -> None:
    with receiving() as slow:
        slow.hang = threading.Event()
        desk.add("a-slow", slow.url)
        desk.add("ops", receiver.url)
        desk.tell()
        desk.delivery.turn(NOW)
        desk.delivery._under_way["ops"].result(10)
        assert len(receiver.got) == 1
        desk.tell()
        desk.delivery.turn(NOW + 1)
        desk.delivery._under_way["ops"].result(10)
        assert (len(receiver.got), slow.got) == (2, [])
        slow.hang.set()
        desk.delivery.wait()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example/",
        "file:///etc/passwd",
        "https://u:p@a.example/",
        "https:///x",
        "//a",
        "https://a:0/",
        "https://a:x/",
    ],
)
def test_a_url_that_no_webhook_may_go_to_is_refused(url: str) -> None:
    with pytest.raises(FleetError, match=r"notify\.url"):
        check_url(url)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "100.64.0.1"],
)
def test_private_addresses_need_the_operators_word(receiver: Receiver, host: str) -> None:
    port = receiver.url.rpartition(":")[2]
    with pytest.raises(SendError, match="not public"):
        send_webhook(f"http://{host}:{port}/", "whsec_AAAA", "m", NOW, b"{}", ())
    assert receiver.got == []


def test_a_redirect_leads_nowhere(desk: Desk, receiver: Receiver) -> None:
    desk.add("ops", receiver.url)
    receiver.answers = [307]
    desk.tell()
    desk.turn()
    assert len(receiver.got) == 1
    assert desk.sent()[0].error == "it answered with status 307"


def test_rules_say_who_is_told() -> None:
    opened = occurrence()
    for rules, told in (
        (Rules(), True),
        (Rules(events=["case.resolved"]), False),
        (Rules(min_severity="critical"), True),
        (Rules(sites=["other"]), False),
        (Rules(sites=["works"], models=["m"]), True),
        (Rules(query='tag.line = "3"'), True),
        (Rules(query='tag.line = "4"'), False),
    ):
        assert wants(rules, opened, {"tag.line": "3"}, NOW) is told, rules
    assert not wants(Rules(min_severity="critical"), occurrence(severity="warning"), {}, NOW)
    assert not wants(Rules(sites=["works"]), occurrence(site=None), {}, NOW)
    assert [pause_seconds(count) for count in (1, 2, 3, 99)] == [30.0, 60.0, 120.0, 21_600.0]


def test_targets_are_told_by_their_rules_and_a_disabled_one_of_nothing(desk: Desk, receiver: Receiver) -> None:
    desk.add("all", receiver.url)
    desk.add("others", receiver.url, sites=["elsewhere"])
    desk.add("off", receiver.url)
    service.change_target(desk.engine, "off", TargetChange(enabled=False))
    desk.tell()
    assert [row.target for row in desk.sent()] == ["all"]
    service.delete_target(desk.engine, "all")
    assert desk.sent() == []
    assert [each.id for each in list_targets(desk.engine).items] == ["off", "others"]


def test_a_mail_arrives_encrypted_and_several_come_as_one(engine: Engine, tmp_path: Path) -> None:
    ca, context = certificate(tmp_path)
    password = tmp_path / "password"
    password.write_text("pa55\n")
    password.chmod(0o600)
    with mail_server(context, ("fleet", "pa55")) as box:
        desk = Desk(
            engine,
            smtp_host="127.0.0.1",
            smtp_port=box.port,
            smtp_user="fleet",
            smtp_password_file=str(password),
            mail_from="fleet@works.example",
            ca_file=str(ca),
        )
        desk.add("ann", "ann@works.example")
        desk.tell(occurrence(title="case 7 opened\r\nBcc: all@works.example"), occurrence(title="case 8 opened"))
        desk.turn()
        [(login, to, text)] = box.mails
        assert (login, to, box.secure) == ("fleet", ["ann@works.example"], [True])
        head, _, body = text.replace("\r\n", "\n").partition("\n\n")
        assert "Bcc" not in [line.partition(":")[0] for line in head.splitlines()]
        assert "and 1 more" in head
        assert "case 8 opened" in body
        assert "  zone D" in body
        assert [row.state for row in desk.sent()] == ["sent", "sent"]
        password.chmod(0o644)
        desk.tell()
        desk.turn(NOW + 1)
        assert "chmod 600" in str(get_target(engine, "ann").error)
        desk.delivery.stop()


def test_a_mail_is_not_sent_in_clear_text_nor_to_whom_it_is_not_verified(engine: Engine, tmp_path: Path) -> None:
    _, context = certificate(tmp_path)
    for served in (None, context):
        with mail_server(served) as box:
            desk = Desk(engine, smtp_host="127.0.0.1", smtp_port=box.port, mail_from="fleet@works.example")
            desk.add(f"ann-{served is None}".lower(), "ann@works.example")
            desk.tell()
            desk.turn()
            assert box.mails == []
            assert {row.state for row in desk.sent()} == {"waiting"}
            desk.delivery.stop()


def test_a_refused_recipient_and_a_missing_mail_server_are_said(engine: Engine) -> None:
    desk = Desk(engine)
    desk.add("ann", "ann@works.example")
    desk.tell()
    desk.turn()
    assert "no mail server" in str(desk.sent()[0].error)
    desk.delivery.stop()
    with mail_server(None) as box:
        box.refuse = "ann"
        settings = {"smtp_security": "none", "mail_from": "f@works.example"}
        desk = Desk(engine, smtp_host="127.0.0.1", smtp_port=box.port, **settings)
        desk.turn(NOW + 60)
        assert get_target(engine, "ann").error == "the mail server refuses the recipient"
        desk.delivery.stop()


@pytest.mark.parametrize(
    "table",
    [
        {"smtp_port": 0},
        {"smtp_port": "25"},
        {"smtp_security": "ssl"},
        {"smtp_user": "u"},
        {"smtp_user": "u", "smtp_password_file": "f", "smtp_security": "none"},
        {"smtp_host": "h"},
        {"allow_private": ["10.0.0.1/8"]},
        {"allow_private": "10.0.0.0/8"},
        {"colour": "red"},
        [],
    ],
)
def test_settings_that_make_no_sense_are_refused(table: object) -> None:
    with pytest.raises(FleetError, match=r"config\."):
        read_settings(table)


def test_the_configuration_has_the_table(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text('[notify]\nsmtp_host = "mail"\nmail_from = "f@works.example"\nallow_private = ["10.0.0.0/8"]\n')
    assert load_config(file).notify.smtp_host == "mail"
