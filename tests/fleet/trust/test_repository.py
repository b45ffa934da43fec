from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Snapshot, TargetFile, Targets, Timestamp

from tests.fleet.trust.world import MODEL, Clock, Killed, World, killed_at
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.director import Director
from wheeltapper_fleet.trust.keys import init_keys, load_signer, team_key
from wheeltapper_fleet.trust.repository import sign_for_team, verified_target
from wheeltapper_protocols.wire.assignment import Assignment, ExecutionOrder, PipelineTarget, decode_assignment
from wheeltapper_protocols.wire.ids import manifest_path

ONE = manifest_path(MODEL, 1)
TWO = manifest_path(MODEL, 2)


def found(world: World, path: str) -> TargetFile | None:
    """The target that a client finds which has only the first root."""
    try:
        return verified_target(world.repository.folder, world.repository.trusted_root(), path)
    except FleetError as error:
        if error.code != "release.not_found":
            raise
        return None


def next_metadata(world: World, path: str, content: bytes) -> bytes:
    signer = load_signer(team_key(world.keys_dir, MODEL))
    return sign_for_team(world.repository.role_metadata(MODEL), path, content, signer, now=world.clock())


def test_a_published_release_is_found_by_a_client(world: World) -> None:
    assert found(world, ONE) is None
    world.repository.publish(MODEL, next_metadata(world, ONE, b"one"))
    world.repository.publish(MODEL, next_metadata(world, TWO, b"two!"))
    first, second = found(world, ONE), found(world, TWO)
    assert first is not None
    assert second is not None
    assert (first.length, second.length) == (3, 4)
    assert list(world.repository.releases(MODEL)) == [1, 2]
    assert found(world, manifest_path("pump-anomaly", 1)) is None


def changed(world: World, change: Callable[[Targets], None], signer: CryptoSigner | None = None) -> bytes:
    metadata = Metadata[Targets].from_bytes(next_metadata(world, TWO, b"two"))
    change(metadata.signed)
    metadata.signatures.clear()
    metadata.sign(signer or load_signer(team_key(world.keys_dir, MODEL)))
    return metadata.to_bytes()


def _skip_version(role: Targets) -> None:
    role.version += 1


def _old_version(role: Targets) -> None:
    role.version -= 1


def _change_old(role: Targets) -> None:
    role.targets[ONE] = TargetFile.from_data(ONE, b"other", ["sha256"])


def _remove_old(role: Targets) -> None:
    del role.targets[ONE]


def _expire(role: Targets) -> None:
    role.expires = role.expires.replace(year=2020)


def _foreign_path(role: Targets) -> None:
    path = manifest_path("pump-anomaly", 1)
    role.targets[path] = TargetFile.from_data(path, b"x", ["sha256"])


def _odd_path(role: Targets) -> None:
    path = f"releases/{MODEL}/3/../manifest.json"
    role.targets[path] = TargetFile.from_data(path, b"x", ["sha256"])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_skip_version, "tuf.version"),
        (_old_version, "tuf.version"),
        (_change_old, "tuf.changed"),
        (_remove_old, "tuf.changed"),
        (_expire, "tuf.expired"),
        (_foreign_path, "tuf.path"),
        (_odd_path, "tuf.path"),
    ],
)
def test_refused_metadata_changes_nothing(world: World, change: Callable[[Targets], None], code: str) -> None:
    world.repository.publish(MODEL, next_metadata(world, ONE, b"one"))
    before = {path.name: path.read_bytes() for path in world.repository.folder.glob("*.json")}
    with pytest.raises(FleetError) as caught:
        world.repository.publish(MODEL, changed(world, change))
    assert caught.value.code == code
    assert {path.name: path.read_bytes() for path in world.repository.folder.glob("*.json")} == before


def test_wrong_signatures_and_malformed_metadata_are_refused(world: World) -> None:
    world.repository.publish(MODEL, next_metadata(world, ONE, b"one"))
    good = next_metadata(world, TWO, b"two")
    pump = load_signer(team_key(world.keys_dir, "pump-anomaly"))
    stranger = changed(world, lambda _: None, CryptoSigner.generate_ed25519())
    other_team = sign_for_team(world.repository.role_metadata(MODEL), TWO, b"two", pump, now=world.clock())
    one_byte = good.replace(b'"length":3', b'"length":4', 1)
    snapshot = world.repository.read("2.snapshot.json")
    cases = [(stranger, "tuf.signature"), (other_team, "tuf.signature"), (one_byte, "tuf.signature")]
    cases += [(snapshot, "tuf.malformed"), (b"{", "tuf.malformed"), (b"[" * 100_000, "tuf.malformed")]
    for content, code in cases:
        with pytest.raises(FleetError) as caught:
            world.repository.publish(MODEL, content)
        assert caught.value.code == code
    for model in ("director", "snapshot", "other"):
        with pytest.raises(FleetError) as caught:
            world.repository.publish(model, good)
        assert caught.value.code == "release.model_unknown"
    assert found(world, TWO) is None


def test_an_old_release_is_not_signed_again(world: World) -> None:
    world.repository.publish(MODEL, next_metadata(world, ONE, b"one"))
    with pytest.raises(FleetError) as caught:
        next_metadata(world, ONE, b"other")
    assert caught.value.code == "release.exists"


@pytest.mark.parametrize("after", [False, True])
def test_publication_killed_at_any_write_leaves_consistent_metadata(
    world: World, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    world.repository.publish(MODEL, next_metadata(world, ONE, b"one"))
    number, effects = 2, 0
    for nth in range(1, 100):
        path = manifest_path(MODEL, number)
        content = next_metadata(world, path, b"content")
        finished = False
        with killed_at(monkeypatch, nth, after=after) as count:
            try:
                world.repository.publish(MODEL, content)
                finished = True
            except Killed:
                pass
            effects = count()
        world = world.restart()
        assert found(world, ONE) is not None
        seen = found(world, path)
        assert seen is not None or not finished
        assert (seen is not None) == (number in world.repository.releases(MODEL))
        if seen is None:
            world.repository.publish(MODEL, content)
            assert found(world, path) is not None
        number += 1
        if finished:
            break
    assert effects == 9  # three files: fsync, rename, fsync of the folder


def test_refresh_signs_when_half_of_the_validity_has_passed(world: World) -> None:
    def versions() -> tuple[int, int]:
        timestamp = Metadata[Timestamp].from_bytes(world.repository.read("timestamp.json")).signed
        return timestamp.version, timestamp.snapshot_meta.version

    assert not world.repository.refresh_timestamp()
    world.clock.now += 11 * 3600
    assert not world.repository.refresh_timestamp()
    world.clock.now += 2 * 3600
    assert world.repository.refresh_timestamp()
    assert versions() == (2, 1)
    assert not world.repository.refresh_timestamp()
    world.clock.now += 4 * 86_400
    assert world.repository.refresh_timestamp()
    assert versions() == (3, 2)
    snapshot = Metadata[Snapshot].from_bytes(world.repository.read("2.snapshot.json")).signed
    assert snapshot.expires.timestamp() > world.clock() + 6.9 * 86_400
    assert found(world, ONE) is None


def test_an_expired_timestamp_is_refused_until_it_is_signed_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("late")
    clock = Clock()
    clock.now -= 2 * 86_400
    init_keys(folder / "offline", folder / "data", [MODEL], clock=clock)
    world = World(folder, clock)
    with pytest.raises(FleetError) as caught:
        found(world, ONE)
    assert caught.value.code == "tuf.unverified"
    clock.now += 2 * 86_400
    assert world.repository.refresh_timestamp()
    assert found(world, ONE) is None
    assert not world.repository.refresh_timestamp()


@pytest.mark.parametrize("after", [False, True])
def test_refresh_killed_at_any_write_leaves_consistent_metadata(
    world: World, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    world.repository.publish(MODEL, next_metadata(world, ONE, b"one"))
    for nth in range(1, 7):
        world.clock.now += 4 * 86_400
        with killed_at(monkeypatch, nth, after=after), pytest.raises(Killed):
            world.repository.refresh_timestamp()
        world = world.restart()
        world.repository.refresh_timestamp()
        assert found(world, ONE) is not None


@pytest.mark.parametrize("name", ["root.json", "../keys/director.pem", ".lock", "1.root.json\n", "0.root.json", "x"])
def test_only_metadata_files_can_be_read(world: World, name: str) -> None:
    with pytest.raises(FleetError) as caught:
        world.repository.read(name)
    assert caught.value.code == "tuf.not_found"


def test_the_root_of_another_repository_does_not_verify(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = World.create(tmp_path_factory.mktemp("other"))
    with pytest.raises(FleetError) as caught:
        verified_target(world.repository.folder, other.repository.trusted_root(), ONE)
    assert caught.value.code == "tuf.unverified"


def test_director_signs_what_the_targets_role_delegates(world: World) -> None:
    target = PipelineTarget(model=MODEL, release=1, path=ONE, length=10, sha256="0" * 64)
    assignment = Assignment(
        device="dev-1",
        counter=1,
        issued_at=world.clock(),
        expires_at=world.clock() + 60,
        pipelines={"main": target},
        executions=[ExecutionOrder(execution="e-1", campaign="c-1", pipelines=["main"])],
    )
    text = Director.open(world.data_dir).sign(assignment)
    targets = Metadata[Targets].from_bytes(world.repository.read("1.targets.json")).signed
    envelope = Envelope.from_dict(json.loads(text))
    targets.verify_delegate("director", envelope.pae(), envelope.signatures)
    assert decode_assignment(envelope.payload) == assignment
    envelope.payload = envelope.payload.replace(b"dev-1", b"dev-2")
    with pytest.raises(UnsignedMetadataError):
        targets.verify_delegate("director", envelope.pae(), envelope.signatures)
    forged = Director(load_signer(team_key(world.keys_dir, MODEL))).sign(assignment)
    envelope = Envelope.from_dict(json.loads(forged))
    with pytest.raises(UnsignedMetadataError):
        targets.verify_delegate("director", envelope.pae(), envelope.signatures)
