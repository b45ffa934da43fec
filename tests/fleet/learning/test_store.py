"""The store: what a version costs, a bucket as well as a folder, and the description for other tools."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fleet.learning.rig import HALVES, coming, fleet, made, vibration
from wheeltapper_fleet.ground.place import Place
from wheeltapper_fleet.learning.datasets.comparing import check_version, difference
from wheeltapper_fleet.learning.datasets.describe import item_of
from wheeltapper_fleet.learning.datasets.exporting import export_version
from wheeltapper_fleet.learning.datasets.importing import import_version
from wheeltapper_fleet.learning.datasets.manifest import Item, Ref
from wheeltapper_fleet.learning.datasets.reading import open_dataset
from wheeltapper_fleet.learning.datasets.removal import prune, remove_contents
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.errors import DatasetError

ROOT = Path(__file__).resolve().parents[3]


def many(count: int) -> Iterator[Item]:
    """Items of one recording each, as if their contents were in the store; ten of each machine."""
    pattern = item_of(vibration(1), "0" * 64, 1, machine="m", source="s", labels=[], condition={}, split="train")
    for number in range(count):
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        words = [digest[at : at + 16] for at in range(0, 64, 16)]
        machine = f"m-{number // 10:06d}"
        side: Any = "train" if number // 10 % 5 else "test"
        yield msgspec.structs.replace(
            pattern, sha256=digest, machine=machine, start=float(number), split=side, windows=words, shapes=words
        )


def grown(store: DatasetStore, count: int) -> None:
    """A version with ``count`` items, made without their contents, and then one with one more."""
    _, version = made(Path(store.url).parent, [coming(vibration(1), "m", split="train")], name=f"of-{count}")
    manifest = msgspec.structs.replace(version.manifest, version=2, items=store.write_items(many(count)))
    assert store.add_version(manifest, b"{}")
    import_version(store, f"of-{count}", [coming(vibration(2), "new", split="test")], base=Ref(f"of-{count}", 2))


def test_one_more_item_costs_the_same_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Counter[str]()

    def count_calls(name: str, real: Any) -> None:
        def counted(place: Place, *given: Any) -> Any:
            calls[name] += 1
            return real(place, *given)

        monkeypatch.setattr(Place, name, counted)

    for name in ("write", "write_new", "write_file", "length", "opened", "remove", "names"):
        count_calls(name, getattr(Place, name))
    costs = []
    for count in (100, 1000):
        calls.clear()
        store = DatasetStore(tmp_path / str(count) / "store")
        grown(store, count)
        costs.append(dict(calls))
        dataset = open_dataset(f"of-{count}@3", store)
        assert dataset.manifest.items.count == count + 1
        assert dataset.manifest.splitting.sides["test"].items == 1 + sum(item.split == "test" for item in many(count))
    assert costs[0] == costs[1]


def test_what_no_version_names_is_pruned_when_it_is_old(tmp_path: Path) -> None:
    store, _ = made(tmp_path, fleet(2))
    left = store.put(b"of an import that ended early")
    used = store.put(b"of an import that is under way")
    os.utime(tmp_path / "store" / "blobs" / used[:2] / used, (0, 0))
    assert store.put(b"of an import that is under way") == used  # again, and now it counts as new
    assert prune(store, 3600.0, time.time(), lambda text: None).files == 0
    listed = store.write_items(many(3)).sha256
    now = max(written_at for _, _, written_at in store.place.files("items"))
    for age, removed in ((3599.0, 0), (1e6, 3), (2e6, 0)):
        done = prune(store, 3600.0, now + age, lambda text: None)
        assert done.files == removed
    assert not store.has(left, 29)
    assert store.place.length(f"items/{listed}.jsonl") is None
    assert {check.verdict for check in check_version(open_dataset("rig", store), True, lambda text: None)} == {"pass"}
    with pytest.raises(DatasetError) as refused:
        prune(store, 60.0, now, lambda text: None)
    assert refused.value.code == "dataset.prune"


def test_a_disk_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    store, version = made(tmp_path, fleet(1))
    assert not store.add_version(version.manifest, b"{}")
    assert import_version(store, "rig", fleet(2)).manifest.version == 2
    assert [path.name for path in (tmp_path / "store" / "versions" / "rig").glob(".*")] == []


@pytest.mark.slow
def test_a_hundred_thousand_items_take_little_memory(tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "store")
    tracemalloc.start()
    grown(store, 100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300e6
    pair = [open_dataset(f"of-100000@{version}", store) for version in (2, 3)]
    assert difference(*pair)["counts"] == {"added": 1, "removed": 0, "changed": 0, "same": 100_000}


@pytest.mark.slow
def test_a_bucket_is_a_store_too(s3_url: str, tmp_path: Path) -> None:
    store = DatasetStore(s3_url.replace("/fleet?", f"/{os.urandom(4).hex()}?"))
    assert store.names() == []
    first = import_version(store, "rig", fleet(3), request=HALVES)
    assert not import_version(store, "rig", fleet(3), request=HALVES).new
    local, same = made(tmp_path, fleet(3), request=HALVES)
    assert first.manifest.items == same.manifest.items
    import_version(store, "rig", fleet(4), base=Ref("rig"))
    assert (store.names(), store.versions("rig")) == (["rig"], [1, 2])
    dataset = open_dataset("rig", store)
    assert sum(1 for _ in dataset.recordings()) == 8
    assert {check.verdict for check in check_version(dataset, True, lambda text: None)} == {"pass"}
    page, following = store.items_page(dataset.manifest.items, 0, 5)
    assert following is not None
    assert len(page) + len(store.items_page(dataset.manifest.items, following, 5)[0]) == 8
    removed = next(dataset.items())
    assert remove_contents(store, {removed.sha256: removed.bytes}, "asked", "me").versions == ["rig@1", "rig@2"]
    assert not store.has(removed.sha256, removed.bytes)
    assert local.names() == ["rig"]
    store.put(b"left over")
    assert prune(store, 3600.0, time.time() + 1e6, lambda text: None).files == 1
    assert sum(1 for _ in open_dataset("rig@2", store).items()) == 8


def test_the_description_for_other_tools_is_what_the_specification_asks_for(tmp_path: Path) -> None:
    store, version = made(tmp_path, fleet(2), request=HALVES, description="a rig")
    manifest = version.manifest
    path = tmp_path / "store" / "versions" / "rig" / "00000001.croissant.json"
    document = json.loads(path.read_bytes())
    needed = {
        "@context",
        "@type",
        "conformsTo",
        "name",
        "description",
        "url",
        "datePublished",
        "distribution",
        "recordSet",
    }
    assert needed <= document.keys()
    assert (document["@type"], document["conformsTo"]) == ("sc:Dataset", "http://mlcommons.org/croissant/1.0")
    (listed,) = document["distribution"]
    assert {"@type", "@id", "name", "contentUrl", "encodingFormat", "sha256"} <= listed.keys()
    content = (path.parent / listed["contentUrl"]).resolve().read_bytes()
    assert (hashlib.sha256(content).hexdigest(), f"{len(content)} B") == (listed["sha256"], listed["contentSize"])
    lines = [json.loads(line) for line in content.splitlines()]
    assert len(lines) == manifest.items.count
    (records,) = document["recordSet"]
    columns = {field["source"]["extract"]["column"] for field in records["field"]}
    assert all(columns <= line.keys() for line in lines)
    assert records["key"]["@id"] in {field["@id"] for field in records["field"]}
    assert store.names() == ["rig"]


@pytest.mark.slow
def test_the_tools_of_ml_commons_read_it(tmp_path: Path) -> None:
    python = ROOT / ".venv-oracles" / "bin" / "python"
    if not python.exists():
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse("no .venv-oracles: make oracles")
    store, _ = made(tmp_path, fleet(2), request=HALVES)
    export_version(open_dataset("rig", store), tmp_path / "out", None, lambda text: None)
    done = subprocess.run(
        [str(python), str(Path(__file__).with_name("croissant_oracle.py")), str(tmp_path / "out" / "croissant.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    wanted = [{"sha256": item.sha256, "machine": item.machine} for item in open_dataset("rig", store).items()]
    assert [{name: each[name] for name in ("sha256", "machine")} for each in found["records"]] == wanted
    assert found["errors"] == []
