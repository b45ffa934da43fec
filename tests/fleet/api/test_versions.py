"""Two people change the same thing: the one who decided on what is no longer there is told so."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.client.fleet_client import FleetClient
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.etag import check_etag, etag

API = "/api/v1"
TARGET = {"id": "ops", "kind": "webhook", "address": "https://hooks.example/T0/secret-path"}
Change = tuple[str, str, dict[str, Any]]
"""Method, path and body."""
LINE = {"tags": {"line": "a"}}


@pytest.mark.parametrize(
    ("read", "first", "second", "code"),
    [
        ("/devices/press-1", ("PATCH", "", LINE), ("PATCH", "", {"tags": {"line": "b"}}), "device.conflict"),
        ("/devices/press-1", ("PATCH", "", LINE), ("POST", "/retire", {"why": "unused"}), "device.conflict"),
        ("/devices/press-1", ("POST", "/quarantine", {}), ("PATCH", "", LINE), "device.conflict"),
        ("/devices/press-1", ("PATCH", "", LINE), ("POST", "/forget", {}), "device.conflict"),
        (
            "/devices/press-1/settings",
            ("PATCH", "", {"settings": {"log_level": "DEBUG"}}),
            ("PATCH", "", {"settings": {"log_level": "INFO"}}),
            "setting.conflict",
        ),
        ("/notify-targets/ops", ("PATCH", "", {"enabled": False}), ("PATCH", "", {"enabled": True}), "notify.conflict"),
        (
            "/notify-targets/ops",
            ("PATCH", "", {"address": "https://hooks.example/T0/another-path"}),
            ("POST", "/delete", {}),
            "notify.conflict",
        ),
        ("/assets/works", ("PATCH", "", {"name": "A"}), ("PATCH", "", {"name": "B"}), "asset.conflict"),
        ("/assets/works", ("PATCH", "", {"name": "A"}), ("POST", "/delete", {}), "asset.conflict"),
    ],
)
def test_the_second_of_two_changes_is_refused(
    server: AdminServer, read: str, first: Change, second: Change, code: str
) -> None:
    server.add_device("press-1")

    def change(http: httpx.Client, change: Change, tag: str) -> httpx.Response:
        method, path, body = change
        return http.request(method, API + read + path, json=body, headers={"If-Match": tag})

    with server.http() as http:
        http.post(f"{API}/notify-targets", json=TARGET).raise_for_status()
        http.post(f"{API}/assets", json={"id": "works", "kind": "site", "name": "Works"}).raise_for_status()
        before = http.get(API + read).headers["ETag"]
        assert change(http, first, before).is_success
        after = http.get(API + read)
        late = change(http, second, before)
        assert (late.status_code, late.json()["code"]) == (412, code)
        assert late.headers["ETag"] == after.headers["ETag"] != before
        assert late.json()["current"] | {"delta": None} == after.json() | {"delta": None}
        assert http.get(API + read).json() == after.json()
        assert change(http, second, late.headers["ETag"]).is_success


def test_what_a_device_reports_is_no_change_of_what_was_decided_on(server: AdminServer) -> None:
    server.add_device("press-1")
    with FleetClient(server.url, server.token) as client:
        read = client.device("press-1")
        server.add_scores("press-1", [0.5])
        changed = client.tag_device("press-1", {"line": "a"}, if_match=read["etag"])
        assert changed["tags"]["line"] == "a"
        with pytest.raises(FleetError, match=r"\[device\.conflict\]"):
            client.move_device("press-1", "quarantine", if_match=read["etag"])
        assert client.tag_device("press-1", {"line": None}, if_match="*")["etag"] == read["etag"]
        assert client.tag_device("press-1", {"line": "b"})["tags"]["line"] == "b"


@settings(max_examples=40)
@given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(), st.text()), st.text(), st.text())
def test_the_same_content_has_the_same_tag(one: dict[str, str], two: dict[str, str], first: str, second: str) -> None:
    same = etag(first, dict(reversed(one.items())))
    assert same == etag(first, one)
    assert (etag(second, two) == same) == ((second, two) == (first, one))


@pytest.mark.parametrize("header", [None, "", " ", "*", '"abc"', 'W/"abc"', '"x", "abc"', "abc"])
def test_what_matches_passes(header: str | None) -> None:
    check_etag(header, "abc", "device.conflict", "press-1")


@pytest.mark.parametrize("header", ['"x"', '"ab"', '"x","y"', '""'])
def test_what_does_not_match_is_refused(header: str) -> None:
    with pytest.raises(FleetError, match=r"read it again.*\[device\.conflict\]") as refused:
        check_etag(header, "abc", "device.conflict", "press-1")
    assert refused.value.status == 412
