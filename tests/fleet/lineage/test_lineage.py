"""From an alert back to the recordings, and from a recording forward to every device: API, commands, index, cost."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, MetaData, create_engine, event, insert, select, text

from tests.fleet.api.harness import AdminServer
from tests.fleet.db.test_every_migration import at_revision
from tests.fleet.learning.rig import HALVES, coming, fleet, vibration
from wheeltapper_fleet import tables
from wheeltapper_fleet.access.tokens import create_api_token
from wheeltapper_fleet.cli.app import main
from wheeltapper_fleet.db.engine import open_database, reading
from wheeltapper_fleet.devices.lifecycle import forget_device
from wheeltapper_fleet.devices.reported import Said, store_reported
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.learning.datasets.importing import import_version
from wheeltapper_fleet.learning.datasets.reading import open_dataset
from wheeltapper_fleet.learning.datasets.removal import chosen_contents, remove_contents
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.lineage import contents, views
from wheeltapper_fleet.lineage.contents import index_turn, not_indexed
from wheeltapper_fleet.registry.dataset_views import record_origin
from wheeltapper_protocols.signal.recording import recording_bytes

MODEL = "bearing"
RECORDING = vibration(7)
SHA256 = hashlib.sha256(recording_bytes(RECORDING)).hexdigest()


def add_release(engine: Engine, number: int, lineage: dict[str, str], model: str = MODEL) -> None:
    row: dict[str, Any] = {"model": model, "release": number, "path": f"releases/{model}/{number}/manifest.json"}
    row |= {"sha256": f"{number:064d}", "length": 10, "manifest": {"lineage": lineage}}
    with engine.begin() as connection:
        connection.execute(insert(tables.releases).values(**row, published_at=50.0, published_by="ann"))
        record_origin(connection, model, number, lineage)


def report(engine: Engine, device: str, now: float, before: int | None, release: int, model: str = MODEL) -> None:
    """A device says that its pipeline runs a release, and ran another one before."""

    def status(number: int | None) -> Any:
        return None if number is None else {"pipelines": {"main": {"model": model, "release": number}}}

    with engine.begin() as connection:
        store_reported(connection, [Said(device, status(before), status(release))], now)


@pytest.fixture
def story(server: AdminServer) -> AdminServer:
    """A recording of press-1 is in rig@1 and rig@2, release 1 was trained on the first and 2 on the second."""
    store = DatasetStore(server.data_dir / "datasets")
    captured = coming(RECORDING, "mill", source="capture c-1 of press-1/main")
    for count in (1, 2):
        import_version(store, "rig", [captured, *fleet(count)], request=HALVES)
    for device in ("press-1", "press-2"):
        server.add_device(device, status=None, tags={"customer": device})
    row = {"command": "c-1", "device": "press-1", "pipeline": "main", "sha256": SHA256, "snapshots": 6}
    server.insert(tables.captures, **row, length=1, received_at=40.0)
    for number in (1, 2):
        add_release(server.engine, number, {**open_dataset(f"rig@{number}", store).lineage, "run": f"r-{number}"})
    report(server.engine, "press-1", 60.0, None, 1)
    report(server.engine, "press-2", 61.0, None, 1)
    report(server.engine, "press-1", 70.0, 1, 2)
    while index_turn(server.engine, lambda: store)(0.0):
        pass
    server.add_alert("press-2", [], id=11, pipeline="main", model=MODEL, release=1)
    return server


def get(http: httpx.Client, path: str, **query: Any) -> Any:
    answer = http.get(f"/api/v1/lineage/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_from_an_alert_back_to_the_recording_and_from_it_forward(story: AdminServer) -> None:
    with story.http() as http:
        found = get(http, "alerts/11")
        assert (found["alert"]["device"], found["runs_now"]) == ("press-2", f"{MODEL} 1")
        release = found["release"]
        assert (release["release"], release["run"], release["published_by"]) == (1, "r-1", "ann")
        assert [(each["dataset"], each["version"]) for each in release["trained_on"]] == [("rig", 1)]
        items, after = list[Any](), None
        while True:
            page = get(http, f"releases/{MODEL}/1/recordings", limit=2, **({"after": after} if after else {}))
            items += page["items"]
            if (after := page["next"]) is None:
                break
        assert len(items) == 3
        (mine,) = [each for each in items if each["sha256"] == SHA256]
        assert (mine["captured"]["device"], mine["captured"]["command"], mine["machine"]) == ("press-1", "c-1", "mill")
        assert [each["captured"] for each in items if each["sha256"] != SHA256] == [None, None]

        forward = get(http, f"recordings/{SHA256}")
        assert [each["device"] for each in forward["captured"]] == ["press-1"]
        assert forward["datasets"] == [{"dataset": "rig", "first_version": 1, "last_version": 2}]
        assert (forward["removed"], forward["not_indexed"]) == (None, [])
        trained = get(http, f"recordings/{SHA256}/releases")["items"]
        assert [(each["release"], each["version"]) for each in trained] == [(1, 1), (2, 2)]
        ran, after = list[Any](), None
        while True:
            page = get(http, f"recordings/{SHA256}/devices", limit=1, **({"after": after} if after else {}))
            ran += page["items"]
            if (after := page["next"]) is None:
                break
        assert [(each["release"], each["device"], each["runs_now"], each["first_at"]) for each in ran] == [
            (1, "press-1", False, 60.0), (1, "press-2", True, 61.0), (2, "press-1", True, 70.0)
        ]  # fmt: skip
        devices = get(http, f"releases/{MODEL}/1/devices")["items"]
        assert [(each["device"], each["runs_now"]) for each in devices] == [("press-1", False), ("press-2", True)]
        # a recording that only the second version has leads to the second release only
        store = DatasetStore(story.data_dir / "datasets")
        later = next(item.sha256 for item in open_dataset("rig@2", store).items() if item.machine == "machine-01")
        assert [each["release"] for each in get(http, f"recordings/{later}/devices")["items"]] == [2]
        for path, code in {
            "alerts/12": "alert.not_found",
            f"releases/{MODEL}/3": "release.not_found",
            f"releases/{MODEL}/3/devices": "release.not_found",
            f"recordings/{'a' * 64}": "lineage.recording",
            f"recordings/{'a' * 64}/devices": "lineage.recording",
        }.items():
            refused = http.get(f"/api/v1/lineage/{path}")
            assert (refused.status_code, refused.json()["code"]) == (404, code), path


def test_a_removed_recording_is_named_as_removed(story: AdminServer) -> None:
    store = DatasetStore(story.data_dir / "datasets")
    remove_contents(store, chosen_contents(open_dataset("rig@2", store), None, SHA256, False), "asked to", "ann")
    with story.http() as http:
        assert get(http, f"recordings/{SHA256}")["removed"] == "asked to"
        assert [each["release"] for each in get(http, f"recordings/{SHA256}/devices")["items"]] == [1, 1, 2]
        items = get(http, f"releases/{MODEL}/2/recordings")["items"]
        assert {each["removed"] for each in items} == {None, "asked to"}


def test_a_token_of_some_devices_follows_only_them(story: AdminServer) -> None:
    token = create_api_token(
        story.engine, "customer", ["viewer"], expires_at=None, who="t", now=time.time(), scope="tag.customer = press-1"
    ).token
    with story.http(token) as http:
        assert http.get("/api/v1/lineage/alerts/11").json()["code"] == "alert.not_found"
        devices = get(http, f"releases/{MODEL}/1/devices")["items"]
        assert [each["device"] for each in devices] == ["press-1"]
        ran = get(http, f"recordings/{SHA256}/devices")["items"]
        assert {each["device"] for each in ran} == {"press-1"}
        assert http.get(f"/api/v1/lineage/releases/{MODEL}/1/recordings").json()["code"] == "api.out_of_scope"
        store = DatasetStore(story.data_dir / "datasets")
        other = next(item.sha256 for item in open_dataset("rig@1", store).items() if item.sha256 != SHA256)
        assert http.get(f"/api/v1/lineage/recordings/{other}").json()["code"] == "lineage.recording"


def test_the_commands(story: AdminServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WHEELTAPPER_URL", story.url)
    monkeypatch.setenv("WHEELTAPPER_API_TOKEN", story.token)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wheeltapper", "lineage", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    code, out, err = run("alert", 11, "--recordings")
    assert code == 0, err
    assert "raised by: bearing 1; the pipeline runs bearing 1 now" in out
    assert "trained on: rig@1" in out
    assert "press-1/main" in out
    found = json.loads(run("release", MODEL, 1, "--devices", "--recordings", "--json")[1])
    assert ([each["device"] for each in found["devices"]], len(found["recordings"])) == (["press-1", "press-2"], 3)
    code, out, err = run("recording", SHA256)
    assert code == 0, err
    assert [line for line in out.splitlines() if "press-1" in line and "bearing 2" in line]
    assert json.loads(run("recording", SHA256, "--json")[1])["devices"][0]["device"] == "press-1"
    assert run("recording", "a" * 64)[::2] == (
        1, f"error: no capture and no indexed version of a dataset is {'a' * 64}: give the whole SHA-256 "
        "[lineage.recording]\n",
    )  # fmt: skip


# --- the index ---


def spans(engine: Engine) -> dict[str, list[tuple[int, int]]]:
    """By the machine's content, in which runs of versions it is."""
    found: dict[str, list[tuple[int, int]]] = {}
    with reading(engine) as connection:
        query = select(tables.dataset_contents).order_by(tables.dataset_contents.c.first_version)
        for row in connection.execute(query):
            found.setdefault(row.sha256, []).append((row.first_version, row.last_version))
    return found


def test_versions_are_indexed_in_small_parts_once_each(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "PART", 2)
    monkeypatch.setattr(contents, "PARTS", 1)
    store = DatasetStore(tmp_path / "store")
    turn = index_turn(engine, lambda: store)
    for count in (2, 3):
        import_version(store, "rig", fleet(count), request=HALVES)
    import_version(store, "other", fleet(1))
    assert not_indexed(engine, store) == ["other", "rig"]
    turns = 0
    while turn(0.0):  # a service that is killed after any of them goes on from there
        turns += 1
        store = DatasetStore(tmp_path / "store")
    assert turns == 1 + 2 + 3
    assert not_indexed(engine, store) == []
    expected: dict[str, list[tuple[int, int]]] = {}
    held = {
        (name, version): {item.sha256 for item in open_dataset(f"{name}@{version}", store).items()}
        for name, version in (("rig", 1), ("rig", 2), ("other", 1))
    }
    for sha256 in held["rig", 2]:
        expected[sha256] = [(1, 2)] if sha256 in held["rig", 1] else [(2, 2)]
        if sha256 in held["other", 1]:
            expected[sha256] = [*expected[sha256], (1, 1)]
    assert {key: sorted(value) for key, value in spans(engine).items()} == {
        key: sorted(value) for key, value in expected.items()
    }
    assert turn(0.0) is False
    assert len(spans(engine)) == len(expected)


def test_a_content_that_leaves_and_comes_back_has_two_runs_of_versions(engine: Engine, tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "store")
    for machines in ((1, 2), (2,), (1, 2), (1, 2, 3)):
        import_version(store, "rig", [coming(vibration(each), f"m-{each}") for each in machines], request=HALVES)
    assert index_turn(engine, lambda: store)(0.0) is False
    names = {item.sha256: item.machine for item in open_dataset("rig@4", store).items()}
    assert {names[sha256]: runs for sha256, runs in spans(engine).items()} == {
        "m-1": [(1, 1), (3, 4)], "m-2": [(1, 4)], "m-3": [(4, 4)]
    }  # fmt: skip


def test_a_damaged_dataset_keeps_no_other_from_being_indexed(engine: Engine, tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "store")
    for name in ("aa", "bb"):
        import_version(store, name, fleet(1))
    (tmp_path / "store/versions/aa/00000001.json").write_text("{")
    with pytest.raises(FleetError, match=r"\[dataset\.damaged\]"):
        index_turn(engine, lambda: store)(0.0)
    assert not_indexed(engine, store) == ["aa"]


# --- what devices ran ---


def test_what_a_device_ran_stays_until_it_is_forgotten(engine: Engine) -> None:
    with engine.begin() as connection:
        row = {"id": "press-1", "tags": {}, "online": True, "counter": 1, "state": "active", "enrolled_at": 1.0}
        connection.execute(insert(tables.devices).values(row))
    for at, before, release in ((1.0, None, 1), (2.0, 1, 2), (3.0, 2, 1)):
        report(engine, "press-1", at, before, release)

    def ran() -> list[tuple[int, float]]:
        with reading(engine) as connection:
            query = select(tables.device_releases).order_by(tables.device_releases.c.release)
            return [(row.release, row.first_at) for row in connection.execute(query)]

    assert ran() == [(1, 1.0), (2, 2.0)]
    add_release(engine, 1, {})
    (only,) = views.release_devices(engine, MODEL, 1).items
    assert (only.runs_now, only.first_at) == (True, 1.0)
    forget_device(engine, "press-1", who="ann", now=4.0)
    assert ran() == []


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    """The statements that readers execute meanwhile."""
    found: list[str] = []

    def note(*given: Any) -> None:
        found.append(given[2])

    readers = engine.get_execution_options()["wheeltapper_readers"]
    event.listen(readers, "before_cursor_execute", note)
    yield found
    event.remove(readers, "before_cursor_execute", note)


def grown(engine: Engine, devices: int, others: int) -> None:
    """``devices`` that ran release 1, and ``others`` that ran releases of something else."""
    rows = [
        {"model": MODEL if number < devices else f"m-{number % 7}", "release": 1, "device": f"d-{number:05}"}
        for number in range(devices + others)
    ]
    with engine.begin() as connection:
        connection.execute(tables.device_releases.delete())
        same = {"pipeline": "main", "first_at": 1.0}
        connection.execute(insert(tables.device_releases), [row | same for row in rows])


def test_a_page_costs_the_same_in_a_small_fleet_and_a_large_one(engine: Engine, tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "store")
    import_version(store, "rig", [coming(RECORDING, "mill")])
    index_turn(engine, lambda: store)(0.0)
    add_release(engine, 1, open_dataset("rig@1", store).lineage)
    asked: dict[str, Callable[[], Any]] = {
        "devices": lambda: views.recording_devices(engine, SHA256, 5, None, scope="", now=0.0),
        "release": lambda: views.release_devices(engine, MODEL, 1, 5),
        "recording": lambda: views.recording_lineage(engine, store, SHA256, "", 0.0),
        "back": lambda: views.release_lineage(engine, MODEL, 1),
    }
    costs = []
    for devices, others in ((6, 0), (300, 1700)):
        grown(engine, devices, others)
        cost = {}
        for name, ask in asked.items():
            with counted(engine) as statements:
                page = ask()
            cost[name] = len(statements)
            if name in ("devices", "release"):
                assert (len(page.items), page.next is None) == (5, False)
        costs.append(cost)
    assert costs[0] == costs[1]


def test_the_database_goes_straight_to_the_rows(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/fleet.db")
    add_release(database, 1, {"dataset": "rig@1"})
    with database.begin() as connection:
        row = {"sha256": SHA256, "dataset": "rig", "first_version": 1, "last_version": 3}
        connection.execute(insert(tables.dataset_contents).values(row))
    grown(database, 5, 5)
    with counted(database) as statements:
        views.recording_devices(database, SHA256, 5, None, scope="", now=0.0)
        views.release_lineage(database, MODEL, 1)
    with database.connect() as connection:
        for statement in {each for each in statements if each.startswith("SELECT")}:
            marks = (1,) * statement.count("?")
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", marks).all()
            assert not [row for row in plan if str(row[3]).startswith("SCAN")], (statement, plan)
    database.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_upgrade_knows_what_devices_and_campaigns_ran_before(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/old.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    url = url.replace("postgresql://", "postgresql+psycopg://")
    with at_revision(url, "0034") as old, old.begin() as connection:
        known = MetaData()
        known.reflect(connection)
        rollups = known.tables["rollups"]
        zeros = {column.name: 0 for column in rollups.columns} | {"device": "d", "pipeline": "main", "model": "m"}
        for span, bucket, release in ((300, 86_700, 1), (86_400, 86_400, 1), (86_400, 172_800, 1), (86_400, 0, 2)):
            connection.execute(insert(rollups).values(**zeros | {"span": span, "bucket": bucket, "release": release}))
        connection.execute(text("INSERT INTO device_pipelines VALUES ('d', 'main', 'm', 3), ('e', 'main', NULL, NULL)"))
        for name, spec in (("c-1", '{"model": "m", "release": 2}'), ("c-2", "{}"), ("c-3", '{"release": "x"}')):
            connection.execute(
                text(
                    "INSERT INTO campaigns (id, version, state, spec, waves, reason, created_at, updated_at)"
                    " VALUES (:id, 1, 'COMPLETED', :spec, '[]', '', 0, 0)"
                ),
                {"id": name, "spec": spec},
            )
    open_database(url).dispose()
    made = create_engine(url)
    with made.connect() as connection:
        ran = connection.execute(text("SELECT release, device, first_at FROM device_releases ORDER BY release")).all()
        took = connection.execute(text("SELECT model, release, campaign FROM campaign_releases")).all()
    made.dispose()
    assert [tuple(row) for row in ran] == [(1, "d", 86_400.0), (2, "d", 0.0), (3, "d", 0.0)]
    assert [tuple(row) for row in took] == [("m", 2, "c-1")]
