"""Versions: made whole or not at all, the same for the same content, divided by machine, read again with what is
known."""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fleet.learning.rig import HALVES, coming, fleet, made, vibration
from wheeltapper_fleet.learning.datasets.importing import Incoming, import_version
from wheeltapper_fleet.learning.datasets.manifest import (
    DatasetManifest,
    Label,
    Ref,
    decode,
    encode,
    parse_ref,
    shares_of,
)
from wheeltapper_fleet.learning.datasets.reading import open_dataset
from wheeltapper_fleet.learning.datasets.splits import Request, sides_of
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.datasets.table import DataTable
from wheeltapper_fleet.learning.errors import DatasetError
from wheeltapper_protocols.errors import RecordingError
from wheeltapper_protocols.signal.recording import Recording


def test_a_version_has_its_items_forms_sides_and_labels(tmp_path: Path) -> None:
    _, version = made(tmp_path, fleet(4), request=HALVES, description="a rig")
    manifest = version.manifest
    assert (version.new, manifest.ref, manifest.machines, manifest.items.count) == (True, "rig@1", 4, 8)
    assert [(form.sample_rate_hz, form.window_samples, form.items) for form in manifest.schema] == [(1000.0, 64, 8)]
    assert manifest.labels == {"state": {"healthy": 4, "worn": 4}}
    sides = {side: (count.items, count.machines) for side, count in manifest.splitting.sides.items()}
    assert sides == {"test": (4, 2), "train": (4, 2)}
    assert not manifest.splitting.forced
    pooled = np.concatenate([vibration(1000 * m + n).samples.ravel() for m in range(4) for n in range(2)])
    found = manifest.statistics[0][0]
    assert (found.mean, found.std) == pytest.approx((pooled.mean(), pooled.std()), abs=1e-6)
    assert (found.low, found.high) == pytest.approx((pooled.min(), pooled.max()))
    assert encode(decode(encode(manifest), DatasetManifest, "it")) == encode(manifest)


def test_what_is_read_is_what_came_with_what_is_known_of_it(tmp_path: Path) -> None:
    label = Label(name="fault", value="inner", start=10.0, stop=20.0, source="case 7")
    came = vibration(1, colour="red")
    store, _ = made(tmp_path, [coming(came, "press-1", labels=[label], condition={"speed_rpm": 1500.0}, split="test")])
    (found,) = open_dataset("rig", store).recordings("test")
    np.testing.assert_array_equal(found.samples, came.samples)
    assert found.meta["machine"] == "press-1"
    assert found.meta["labels"] == [msgspec.to_builtins(label)]
    assert found.meta["condition"] == {"speed_rpm": 1500.0}
    assert found.meta["colour"] == "red"
    with pytest.raises(DatasetError) as refused:
        list(open_dataset("rig@1", store).recordings("train"))
    assert refused.value.code == "dataset.split"


def test_tables_are_kept_beside_recordings(tmp_path: Path) -> None:
    columns = {"cycle": np.arange(3), "volt": np.array([4.2, np.nan, 3.9]), "note": np.array(["a", "", "c"])}
    store, version = made(tmp_path, [coming(DataTable(columns, {"volt": "V"}), "cell-1"), coming(vibration(1), "m-1")])
    assert [form.kind for form in version.manifest.schema] == ["recording", "table"]
    (found,) = open_dataset("rig", store).tables()
    assert found.units == {"volt": "V"}
    assert {name: column.dtype.kind for name, column in found.columns.items()} == {
        "cycle": "i",
        "volt": "f",
        "note": "U",
    }
    np.testing.assert_array_equal(found.columns["volt"], columns["volt"])
    statistics = version.manifest.statistics[1]
    assert [round(each.missing, 3) for each in statistics] == [0.0, 0.333, 0.333]
    assert len(list(open_dataset("rig", store).recordings())) == 1


def test_the_same_content_gives_the_same_bytes_everywhere(tmp_path: Path) -> None:
    _, one = made(tmp_path / "a", fleet(3), request=HALVES)
    _, other = made(tmp_path / "b", reversed(list(fleet(3))), request=HALVES)
    same = ("items", "schema", "statistics", "splitting", "labels", "checks", "bytes")
    assert [getattr(one.manifest, name) for name in same[:1]] == [getattr(other.manifest, name) for name in same[:1]]
    assert one.manifest.splitting == other.manifest.splitting


def test_an_import_that_changes_nothing_makes_no_version(tmp_path: Path) -> None:
    store, first = made(tmp_path, fleet(3), request=HALVES)
    again = import_version(store, "rig", fleet(3), request=HALVES)
    assert (again.new, again.sha256) == (False, first.sha256)
    assert store.versions("rig") == [1]
    blobs = sorted((tmp_path / "store" / "blobs").rglob("*"))
    grown = import_version(store, "rig", fleet(4), request=HALVES)
    assert (grown.new, grown.manifest.ref) == (True, "rig@2")
    assert len(sorted((tmp_path / "store" / "blobs").rglob("*"))) > len(blobs)
    assert open_dataset("rig@1", store).sha256 == first.sha256


def test_a_machine_stays_on_its_side_when_others_come(tmp_path: Path) -> None:
    store, _ = made(tmp_path, fleet(6), request=HALVES)

    def sides(ref: str) -> dict[str, str]:
        return {item.machine: item.split for item in open_dataset(ref, store).items()}

    import_version(store, "rig", itertools.islice(fleet(20), 12, None), base=Ref("rig"))
    before, after = sides("rig@1"), sides("rig@2")
    assert len(after) == 20
    assert {machine: after[machine] for machine in before} == before
    assert set(after.values()) == {"train", "test"}
    again = import_version(store, "rig", fleet(20), request=HALVES)  # anew, not on top of the version before
    assert not again.new


@pytest.mark.parametrize("by", ["window", "recording"])
def test_a_split_that_leaks_is_refused_and_marked_if_forced(tmp_path: Path, by: str) -> None:
    request = Request(by=by, shares={"train": 0.7, "test": 0.3})  # type: ignore[arg-type]
    with pytest.raises(DatasetError) as refused:
        made(tmp_path, fleet(3, each=4), request=request)
    assert refused.value.code == "dataset.leak"
    assert not (tmp_path / "store").exists()
    store, version = made(tmp_path, fleet(3, each=4), request=msgspec.structs.replace(request, force=True))
    splitting = version.manifest.splitting
    assert (splitting.by, splitting.forced, bool(splitting.leaks)) == (by, True, True)
    dataset = open_dataset("rig", store)
    assert dataset.lineage["dataset_split"] == f"{by}, forced, leaks"
    assert {check.name: check.verdict for check in version.manifest.checks}["machine_on_two_sides"] == "fail"
    whole = sum(recording.snapshots for recording in dataset.recordings())
    assert whole == 3 * 4 * 6
    if by == "window":
        parts = [recording for recording in dataset.recordings() if recording.meta["sha256"]]
        first = [part for part in parts if part.meta["sha256"] == parts[0].meta["sha256"]]
        assert [(part.snapshots, part.meta["split"], part.t_s[0]) for part in first] == [
            (4, "train", 0.0),
            (2, "test", 40.0),
        ]


def test_a_source_that_has_one_machine_on_two_sides_is_refused(tmp_path: Path) -> None:
    pair = [coming(vibration(1), "m", split="train"), coming(vibration(2), "m", split="test")]
    with pytest.raises(DatasetError) as refused:
        made(tmp_path, pair)
    assert refused.value.code == "dataset.leak"
    assert DatasetStore(tmp_path / "store").versions("rig") == []
    _, version = made(tmp_path, pair, request=Request(force=True))
    assert (version.manifest.splitting.leaks, version.manifest.splitting.forced) == (["m"], True)


def test_the_same_windows_under_two_names_are_found_and_refused(tmp_path: Path) -> None:
    whole = vibration(1, snapshots=12)
    pair = [coming(whole, "a", split="train"), coming(whole.part(slice(4, 12)), "b", split="test")]
    with pytest.raises(DatasetError) as refused:
        made(tmp_path, pair)
    assert refused.value.code == "dataset.leak"
    assert "duplicates_across_splits" in refused.value.message


def test_a_bad_source_makes_no_version_and_the_next_try_goes_on(tmp_path: Path) -> None:
    def broken() -> Recording:
        raise RecordingError("recording.malformed", "cut off")

    bad = Incoming(read=broken, machine="m", source="bad.npz")
    with pytest.raises(DatasetError) as refused:
        made(tmp_path, [*fleet(2), bad])
    assert refused.value.code == "dataset.import"
    assert "bad.npz" in refused.value.message
    store = DatasetStore(tmp_path / "store")
    assert (store.names(), store.versions("rig")) == ([], [])
    written = {path: path.stat().st_ino for path in (tmp_path / "store" / "blobs").rglob("*") if path.is_file()}
    assert len(written) == 4
    import_version(store, "rig", fleet(2))
    assert {path: path.stat().st_ino for path in written} == written


@pytest.mark.parametrize("incoming", [[], [Incoming(read=lambda: vibration(1), machine="x", source="s")]])
def test_what_cannot_be_a_version(tmp_path: Path, incoming: list[Incoming]) -> None:
    with pytest.raises(DatasetError) as refused:
        made(tmp_path, incoming, name="rig" if not incoming else "../rig")
    assert refused.value.code == ("dataset.empty" if not incoming else "dataset.name")


def test_two_that_make_a_version_at_once_make_two(tmp_path: Path) -> None:
    store = DatasetStore(tmp_path / "store")

    def slow() -> Recording:
        import_version(store, "rig", fleet(2))
        return vibration(99)

    later = import_version(store, "rig", [Incoming(read=slow, machine="x", source="s")])
    assert (later.manifest.version, store.versions("rig")) == (2, [1, 2])
    assert open_dataset("rig@1", store).manifest.items.count == 4


def test_damage_is_noticed(tmp_path: Path) -> None:
    store, version = made(tmp_path, fleet(1))
    item = next(open_dataset("rig", store).items())
    blob = tmp_path / "store" / "blobs" / item.sha256[:2] / item.sha256
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(DatasetError) as refused:
        list(open_dataset("rig", store).recordings())
    assert refused.value.code == "dataset.damaged"
    lines = tmp_path / "store" / "items" / f"{version.manifest.items.sha256}.jsonl"
    lines.write_bytes(lines.read_bytes().replace(b"machine-00", b"machine-99"))
    with pytest.raises(DatasetError) as refused:
        list(open_dataset("rig", store).items())
    assert refused.value.code == "dataset.damaged"


def test_pages_of_items_begin_where_the_one_before_ended(tmp_path: Path) -> None:
    store, version = made(tmp_path, fleet(5))
    whole = list(open_dataset("rig", store).items())
    found, following = store.items_page(version.manifest.items, 0, 3)
    while following is not None:
        page, following = store.items_page(version.manifest.items, following, 3)
        found += page
    assert found == whole
    for wrong in (-1, 7, 10**9):
        with pytest.raises(DatasetError) as refused:
            store.items_page(version.manifest.items, wrong, 3)
        assert refused.value.code == "dataset.cursor"


@given(
    sizes=st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(1, 100), min_size=1, max_size=30),
    shares=st.dictionaries(st.sampled_from(["train", "validation", "test"]), st.floats(0.1, 10), min_size=2),
)
@settings(deadline=None)
def test_every_machine_has_one_side_whatever_else_is_there(sizes: dict[str, int], shares: dict[str, float]) -> None:
    request = Request(by="machine", shares=shares)
    sides = sides_of(sizes, {}, request)
    assert sides.keys() == sizes.keys()
    assert set(sides.values()) <= shares.keys()
    assert sides_of(dict(reversed(sizes.items())), {}, request) == sides
    more = {**sizes, "zzzz": 5}
    assert {name: sides_of(more, sides, request)[name] for name in sizes} == sides
    if len(set(sizes.values())) == 1 and len(sizes) >= 20:  # equal machines: no side is far from its share
        counts: dict[str, int] = defaultdict(int)
        for side in sides.values():
            counts[side] += 1
        for side, share in shares.items():
            assert abs(counts[side] / len(sizes) - share / sum(shares.values())) <= 1.5 / len(sizes) * len(shares)


@pytest.mark.parametrize("text", ["", "A", "a@", "a@0", "a@x", "a@-1", "a@999999999", "a b", "../a", "-a", "a" * 64])
def test_names_of_datasets(text: str) -> None:
    assert parse_ref("bearings-1@12") == Ref("bearings-1", 12)
    with pytest.raises(DatasetError):
        parse_ref(text)


@pytest.mark.parametrize("text", ["train", "train=0", "train=x", "left=1", "train=nan", "train=-1"])
def test_shares(text: str) -> None:
    assert shares_of(["train=0.7", "test=0.3"]) == {"train": 0.7, "test": 0.3}
    with pytest.raises(DatasetError):
        shares_of([text])
