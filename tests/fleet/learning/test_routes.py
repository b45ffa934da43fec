"""Datasets through the API and the commands that ask it: versions, items, captures with labels, removal with its
models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event

from tests.fleet.api.harness import AdminServer
from tests.fleet.learning.rig import HALVES, fleet, vibration
from wheeltapper_fleet import tables
from wheeltapper_fleet.cli.app import main
from wheeltapper_fleet.learning.captures import list_captures
from wheeltapper_fleet.learning.datasets.importing import import_version
from wheeltapper_fleet.learning.datasets.manifest import Ref
from wheeltapper_fleet.learning.datasets.reading import STORE_VARIABLE, open_dataset
from wheeltapper_fleet.learning.datasets.removal import chosen_contents, remove_contents
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.errors import DatasetError
from wheeltapper_fleet.registry.dataset_views import list_dataset_releases, record_origin
from wheeltapper_protocols.signal.recording import Recording, recording_bytes

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(server: AdminServer) -> DatasetStore:
    return DatasetStore(server.data_dir / "datasets")


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], server: AdminServer, store: DatasetStore
) -> Run:
    """Run a command line beside the service; gives exit code, standard output, standard error."""
    for name, value in {
        STORE_VARIABLE: store.url,
        "WHEELTAPPER_URL": server.url,
        "WHEELTAPPER_API_TOKEN": server.token,
    }.items():
        monkeypatch.setenv(name, value)

    def line(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wheeltapper", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return line


def test_versions_are_read_through_the_api(server: AdminServer, store: DatasetStore) -> None:
    with server.http() as http:
        assert http.get("/api/v1/datasets").json() == {"items": [], "next": None}
        assert http.get("/api/v1/datasets/rig").json()["code"] == "dataset.not_found"
        for count in (2, 3):
            import_version(store, "rig", fleet(count), request=HALVES)
        import_version(store, "another", fleet(1))
        page = http.get("/api/v1/datasets", params={"limit": 1}).json()
        assert [(each["name"], each["version"]) for each in page["items"]] == [("another", 1)]
        page = http.get("/api/v1/datasets", params={"limit": 1, "after": page["next"]}).json()
        assert [(each["name"], each["version"], page["next"]) for each in page["items"]] == [("rig", 2, None)]
        versions = http.get("/api/v1/datasets/rig/versions", params={"limit": 1}).json()
        assert [each["version"] for each in versions["items"]] == [2]
        versions = http.get("/api/v1/datasets/rig/versions", params={"after": versions["next"]}).json()
        assert ([each["version"] for each in versions["items"]], versions["next"]) == ([1], None)
        shown = http.get("/api/v1/datasets/rig", params={"version": 1}).json()
        assert shown["sha256"] == open_dataset("rig@1", store).sha256
        assert shown["manifest"]["items"]["count"] == 4
        items, cursor = [], None
        while True:
            page = http.get(
                "/api/v1/datasets/rig/items", params={"limit": 4} | ({"after": cursor} if cursor else {})
            ).json()
            items += [each["item"] for each in page["items"]]
            cursor = page["next"]
            if cursor is None:
                break
        assert [item["sha256"] for item in items] == [item.sha256 for item in open_dataset("rig", store).items()]
        changed = http.get("/api/v1/datasets/rig/diff", params={"one": 1, "other": 2}).json()
        assert (changed["counts"]["added"], changed["from_version"]) == (2, "rig@1")
        for path in (
            "datasets/RIG",
            "datasets/rig?version=0",
            "datasets/rig?version=9",
            "datasets/rig/diff?one=1&other=7",
        ):
            assert http.get(f"/api/v1/{path}").status_code in (404, 422), path
        refused = http.get("/api/v1/datasets/rig/items", params={"after": "Wzdd"})  # the cursor of byte 7
        assert (refused.status_code, refused.json()["code"]) == (400, "dataset.cursor")


def add_capture(server: AdminServer, command: str, device: str, recording: Recording, received_at: float) -> None:
    import hashlib

    content = recording_bytes(recording)
    sha256 = hashlib.sha256(content).hexdigest()
    (server.data_dir / "captures" / f"{sha256}.npz").write_bytes(content)
    row: dict[str, Any] = {"command": command, "device": device, "pipeline": "main", "sha256": sha256}
    server.insert(tables.captures, **row, length=len(content), snapshots=6, received_at=received_at)


def add_label(server: AdminServer, device: str, case: int, from_t_s: float, to_t_s: float, verdict: str) -> None:
    row: dict[str, Any] = {"device": device, "pipeline": "main", "model": "m", "release": 1, "verdict": verdict}
    row |= {"case_id": case, "episode": 1, "part": "bearing", "from_at": 10.0, "to_at": 20.0, "who": "x"}
    server.insert(tables.labels, **row, from_t_s=from_t_s, to_t_s=to_t_s, resolved_at=30.0)


def test_captures_become_a_dataset_with_what_cases_say_of_them(
    server: AdminServer, store: DatasetStore, run: Run
) -> None:
    for number in range(3):
        server.add_device(f"press-{number}", tags={"line": "a" if number < 2 else "b"})
        add_capture(server, f"c-{number}", f"press-{number}", vibration(number), 100.0 + number)
    server.insert(
        tables.assets, id="hall", kind="site", site="hall", name="h", criticality="low", attributes={}, version=1,
        created_at=0.0, updated_at=0.0,
    )  # fmt: skip
    for asset, kind, parent in (("mill", "machine", "hall"), ("mill-de", "point", "mill")):
        server.insert(
            tables.assets, id=asset, kind=kind, parent=parent, site="hall", machine="mill", name=asset,
            criticality="low", attributes={}, version=1, created_at=0.0, updated_at=0.0,
        )  # fmt: skip
    mapping = {"point": "mill-de", "device": "press-0", "pipeline": "main", "channel": "*", "from_at": 0.0}
    server.insert(tables.point_mappings, **mapping)
    add_label(server, "press-0", 7, 25.0, 35.0, "true_fault")  # within the recording, which goes to 50 s
    add_label(server, "press-0", 8, 500.0, 600.0, "false_alarm")  # after it
    code, out, err = run("dataset", "import", "captured", "--from-captures", "tag.line = a", "--json")
    assert code == 0, err
    assert json.loads(out)["manifest"]["items"]["count"] == 2
    items = {item.machine: item for item in open_dataset("captured", store).items()}
    assert set(items) == {"mill", "press-1"}
    assert [(label.name, label.value, label.source) for label in items["mill"].labels] == [
        ("verdict", "true_fault", "case 7"),
        ("part", "bearing", "case 7"),
    ]
    assert items["press-1"].labels == []
    (recording,) = open_dataset("captured", store).recordings(only={"verdict": "true_fault"})
    np.testing.assert_array_equal(recording.samples, vibration(0).samples)
    for path in (server.data_dir / "captures").iterdir():
        path.unlink()  # what is in the store is not fetched again
    assert run("dataset", "import", "captured", "--from-captures", "tag.line = a")[1].startswith("nothing changed")
    code, _, err = run("dataset", "import", "captured", "--from-captures", "")
    assert (code, err.strip().endswith("[capture.not_found]")) == (1, True)
    assert run("dataset", "import", "captured", "--from-captures", "line ~")[2].endswith("[query.invalid]\n")
    assert store.versions("captured") == [1]


def test_a_page_of_captures_costs_the_same_however_many_there_are(engine: Engine) -> None:
    def statements(limit: int) -> int:
        count = 0

        def counted(*_: Any) -> None:
            nonlocal count
            count += 1

        listener = engine.get_execution_options().get("wheeltapper_readers", engine)
        event.listen(listener, "before_cursor_execute", counted)
        page = list_captures(engine, 0.0, limit, None, query='site = none or id like ("p*")')
        event.remove(listener, "before_cursor_execute", counted)
        assert len(page.items) == min(limit, 40)
        return count

    with engine.begin() as connection:
        for number in range(40):
            device = {"id": f"p{number % 4}", "tags": {}, "online": False, "counter": 1, "state": "active"}
            if number < 4:
                connection.execute(tables.devices.insert().values({**device, "site": "s", "enrolled_at": 1.0}))
            row = {"command": f"c{number}", "device": f"p{number % 4}", "pipeline": "main", "sha256": "0" * 64}
            connection.execute(tables.captures.insert().values(**row, length=1, snapshots=1, received_at=float(number)))
    assert statements(40) - statements(10) == 0


def test_what_was_removed_is_gone_and_its_models_are_named(server: AdminServer, store: DatasetStore, run: Run) -> None:
    import_version(store, "rig", fleet(3), request=HALVES)
    import_version(store, "other", fleet(1))
    with server.engine.begin() as connection:
        record_origin(connection, "pump-anomaly", 4, open_dataset("rig@1", store).lineage)
        record_origin(connection, "pump-anomaly", 5, {"dataset": "rig"})  # no version: no lineage
    code, out, err = run(
        "dataset", "remove", "rig", "--machine", "machine-00", "--why", "asked by its owner", "--yes", "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert (len(found["contents"]), found["versions"]) == (2, ["other@1", "rig@1"])
    assert [(each["model"], each["release"], each["split"]) for each in found["releases"]] == [
        ("pump-anomaly", 4, "machine")
    ]
    assert not any(
        store.has(sha256, 1) or store.place.length(f"blobs/{sha256[:2]}/{sha256}") for sha256 in found["contents"]
    )
    assert run("dataset", "models", "rig@1", "--json")[1] != "[]\n"
    with server.http() as http:
        shown = http.get("/api/v1/datasets/rig/items").json()["items"]
        assert [each["removed"] for each in shown if each["removed"]] == ["asked by its owner"] * 2
    with pytest.raises(DatasetError) as refused:
        list(open_dataset("rig", store).recordings())
    assert refused.value.code == "dataset.removed"
    assert "--base rig@1" in refused.value.message
    assert run("dataset", "check", "rig", "--json")[0] == 0
    assert run("dataset", "import", "rig", "--base", "rig@1")[0] == 0  # as the error says
    assert sum(1 for _ in open_dataset("rig@2", store).recordings()) == 4
    with pytest.raises(DatasetError) as refused:
        import_version(store, "rig", fleet(3), request=HALVES)
    assert refused.value.code == "dataset.removed"


def test_a_removal_is_asked_for_exactly(store: DatasetStore, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import_version(store, "rig", fleet(2))
    dataset = open_dataset("rig", store)
    for chosen in ((None, None, False), ("a", None, True), (None, "123", False)):
        with pytest.raises(DatasetError) as refused:
            chosen_contents(dataset, *chosen)
        assert refused.value.status == 400
    with pytest.raises(DatasetError):
        chosen_contents(dataset, "nobody", None, False)
    contents = chosen_contents(dataset, None, next(dataset.items()).sha256[:8], False)
    with pytest.raises(DatasetError):
        remove_contents(store, contents, " ", "me")
    assert run("dataset", "remove", "rig", "--all", "--why", "x")[0] == 2  # nobody says yes
    assert store.tombstones() == set()
    assert list(remove_contents(store, contents, "x", "me").contents) == list(contents)
    again = remove_contents(store, contents, "another reason", "me")
    assert (again.versions, store.tombstone(again.contents[0]).why) == (["rig@1"], "x")  # type: ignore[union-attr]
    assert store.resolve(Ref("rig")) == Ref("rig", 1)


def test_the_index_of_releases_is_by_dataset_and_version(engine: Engine) -> None:
    with engine.begin() as connection:
        for release in range(1, 6):
            lineage = {"dataset": f"rig@{release % 2 + 1}", "dataset_split": "machine", "dataset_sha256": "a" * 64}
            record_origin(connection, "m", release, lineage)
        record_origin(connection, "m", 9, {})
    found = list_dataset_releases(engine, "rig", None, 2, None)
    assert [(row["version"], row["release"]) for row in found.items] == [(1, 2), (1, 4)]
    assert [row["release"] for row in list_dataset_releases(engine, "rig", None, 9, found.next).items] == [1, 3, 5]
    assert [row["release"] for row in list_dataset_releases(engine, "rig", 2, 9, None).items] == [1, 3, 5]
