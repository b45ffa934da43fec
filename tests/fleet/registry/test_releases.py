from __future__ import annotations

import msgspec
import pytest
from onnx import helper

from tests.agent.onnx_nets import net, value
from tests.fleet.trust.bundles import write_bundle
from tests.fleet.trust.world import FAILED, MODEL, PASSED, Killed, World, killed_at, sha256
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.dataset_views import list_dataset_releases
from wheeltapper_fleet.registry.prepare import prepare_release
from wheeltapper_fleet.registry.releases import Releases
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.manifest.manifest import decode_manifest, encode_manifest


def code_of_publishing(world: World, number: int, manifest: bytes, metadata: bytes) -> str:
    before = world.repository.role_metadata(MODEL)
    with pytest.raises((FleetError, WireError)) as caught:
        world.releases.publish(MODEL, manifest, metadata, "tester")
    assert world.repository.role_metadata(MODEL) == before
    assert not [entry for entry in world.releases.list(MODEL) if entry.release == number]
    error = caught.value
    assert isinstance(error, FleetError | WireError)
    return error.code


def test_publish_list_verify(world: World) -> None:
    assert world.releases.next_number(MODEL) == 1
    first = world.publish(1)
    second = world.publish(2)
    assert world.releases.list() == world.releases.list(MODEL) == [first, second]
    assert world.releases.list("pump-anomaly") == []
    assert second.published_by == "tester"
    assert world.releases.next_number(MODEL) == 3
    assert world.releases.manifest(MODEL, 2).release == 2
    assert world.releases.verify(MODEL, 1).release == 1
    with pytest.raises(FleetError) as caught:
        world.releases.verify(MODEL, 3)
    assert caught.value.code == "release.not_found"
    named = world.releases.manifest(MODEL, 1).file("model.onnx")
    world.blobs.path(named.sha256).write_bytes(b"x" * named.length)
    with pytest.raises(FleetError) as caught:
        world.releases.verify(MODEL, 1)
    assert caught.value.code == "blob.hash"
    assert world.releases.verify(MODEL, 2).release == 2


def test_again_changes_nothing_and_other_content_is_refused(world: World) -> None:
    manifest = world.manifest(1)
    metadata = world.signed(1, manifest)
    first = world.releases.publish(MODEL, manifest, metadata, "tester")
    assert world.releases.publish(MODEL, manifest, metadata, "someone else") == first
    other = manifest.replace(b"2026-11-23", b"2026-11-24")
    with pytest.raises(FleetError) as caught:
        world.releases.publish(MODEL, other, metadata, "tester")
    assert caught.value.code == "release.exists"
    assert world.releases.list() == [first]


def test_refused_releases(world: World) -> None:
    good = world.manifest(1)
    signed = world.signed(1, good)
    assert code_of_publishing(world, 1, b"{", signed) == "manifest.malformed"
    for gates in ((PASSED, FAILED), ()):
        bad = world.manifest(1, gates)
        assert code_of_publishing(world, 1, bad, world.signed(1, bad)) == "release.gate_failed"
    skipped = world.manifest(2)
    assert code_of_publishing(world, 2, skipped, world.signed(2, skipped)) == "release.number"
    assert code_of_publishing(world, 1, good, world.signed(1, good + b" ")) == "release.metadata"
    assert code_of_publishing(world, 1, good, world.signed(2, good)) == "release.metadata"
    assert code_of_publishing(world, 1, good.replace(b"2026", b"2027"), signed) == "release.metadata"
    pump = world.keys_dir / "team-pump-anomaly.pem"
    assert code_of_publishing(world, 1, good, world.signed(1, good, pump)) == "tuf.signature"
    with pytest.raises(FleetError) as caught:
        world.releases.publish("pump-anomaly", good, signed, "tester")
    assert caught.value.code == "release.model"
    unnumbered = (world.folder / "bundle-1" / "manifest.json").read_bytes()
    assert code_of_publishing(world, 1, unnumbered, signed) == "release.number"
    world.publish(1)


def test_missing_blob(world: World) -> None:
    manifest = world.manifest(1, upload=False)
    signed = world.signed(1, manifest)
    assert code_of_publishing(world, 1, manifest, signed) == "release.blob_missing"
    named = decode_manifest(manifest).file("model.onnx")
    (world.data_dir / "blobs" / named.sha256).write_bytes(b"short")
    assert code_of_publishing(world, 1, manifest, signed) == "release.blob_missing"
    assert world.releases.publish(MODEL, world.manifest(1), signed, "tester").release == 1


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_write(world: World, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    world.publish(1)
    number = 2
    for nth in range(1, 100):
        manifest = world.manifest(number)
        signed = world.signed(number, manifest)
        finished = False
        with killed_at(monkeypatch, nth, after=after):
            try:
                world.releases.publish(MODEL, manifest, signed, "tester")
                finished = True
            except Killed:
                pass
        world = world.restart()
        world.releases.reconcile()
        assert world.releases.verify(MODEL, 1)
        assert [entry.release for entry in world.releases.list(MODEL)] == list(world.repository.releases(MODEL))
        assert world.releases.publish(MODEL, manifest, signed, "tester").sha256 == sha256(manifest)
        assert world.releases.verify(MODEL, number)
        if finished:
            break
        number += 1
    assert number == 14  # four files of three effects each


def test_killed_before_the_row(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = world.manifest(1)

    def die(*_: object) -> bool:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Releases, "_record", die)
        with pytest.raises(Killed):
            world.releases.publish(MODEL, manifest, world.signed(1, manifest), "tester")
    world = world.restart()
    assert world.releases.list() == []
    assert world.releases.reconcile() == 1
    assert world.releases.reconcile() == 0
    assert [(entry.release, entry.sha256) for entry in world.releases.list()] == [(1, sha256(manifest))]


def test_prepare_refuses_a_broken_bundle(world: World) -> None:
    bundle = world.folder / "bundle"
    write_bundle(bundle, MODEL, 1, (PASSED,))
    assert prepare_release(bundle, 7) == prepare_release(bundle, 7)
    assert decode_manifest(prepare_release(bundle, 7)).release == 7
    assert decode_manifest(prepare_release(bundle, 7, rollback_floor=7)).rollback_floor == 7
    for floor in (0, 8):
        with pytest.raises(FleetError, match=r"\[release\.floor\]"):
            prepare_release(bundle, 7, rollback_floor=floor)
    with pytest.raises(WireError):
        prepare_release(bundle, 0)
    (bundle / "golden.npz").write_bytes(b"gOlden")
    with pytest.raises(WireError) as changed:
        prepare_release(bundle, 7)
    assert changed.value.code == "manifest.hash"
    (bundle / "golden.npz").unlink()
    with pytest.raises(FleetError) as missing:
        prepare_release(bundle, 7)
    assert missing.value.code == "release.bundle"


def test_a_release_that_no_device_can_run_is_refused(world: World) -> None:
    bundle = world.folder / "bundle"
    nodes = [helper.make_node("Add", ["x", "x"], ["latent"]), helper.make_node("Neg", ["x"], ["score"])]
    content = net(nodes, [value("x", [None, 1])], [value(name, [None, 1]) for name in ("latent", "score")])
    write_bundle(bundle, MODEL, 1, (PASSED,), content)
    with pytest.raises(WireError) as unsigned:
        prepare_release(bundle, 1)
    assert unsigned.value.code == "runtime.output"
    assert "latent, score" in unsigned.value.message
    # A client that does not check: the registry does.
    manifest = encode_manifest(
        msgspec.structs.replace(decode_manifest((bundle / "manifest.json").read_bytes()), release=1)
    )
    for file in decode_manifest(manifest).files:
        world.blobs.put_bytes((bundle / file.name).read_bytes())
    with pytest.raises(WireError) as unpublished:
        world.releases.publish(MODEL, manifest, world.signed(1, manifest), "tester")
    assert unpublished.value.code == "runtime.output"
    assert world.releases.list() == []
    manifest_of_one = msgspec.structs.replace(decode_manifest(manifest), output="score")
    named = encode_manifest(manifest_of_one)
    assert world.releases.publish(MODEL, named, world.signed(1, named), "tester").release == 1


def test_features_that_cannot_be_computed_are_refused(world: World) -> None:
    bundle = world.folder / "bundle"
    write_bundle(bundle, MODEL, 1, (PASSED,))
    manifest = decode_manifest((bundle / "manifest.json").read_bytes())
    feature = msgspec.structs.replace(manifest.features[0], channel=5)
    (bundle / "manifest.json").write_bytes(encode_manifest(msgspec.structs.replace(manifest, features=[feature])))
    with pytest.raises(FleetError, match=r"\[bundle\.invalid\]"):
        prepare_release(bundle, 1)


def test_a_release_is_found_by_what_it_was_trained_on(world: World) -> None:
    lineage = {"dataset": "pumps@2", "dataset_split": "machine", "dataset_sha256": "b" * 64}
    decoded = msgspec.structs.replace(decode_manifest(world.manifest(1)), lineage=lineage)
    manifest = encode_manifest(decoded)
    world.releases.publish(MODEL, manifest, world.signed(1, manifest), "tester")
    world.publish(2)
    (found,) = list_dataset_releases(world.engine, "pumps", 2, 10, None).items
    assert (found["model"], found["release"], found["split"], found["sha256"]) == (MODEL, 1, "machine", "b" * 64)
    assert list_dataset_releases(world.engine, "pumps", 1, 10, None).items == []
