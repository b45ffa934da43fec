from __future__ import annotations

import stat
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets

from tests.fleet.trust.world import MODEL, World
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.keys import init_keys, load_signer, team_key


def test_keys_are_private_and_in_the_right_folders(world: World) -> None:
    offline = sorted(path.name for path in world.keys_dir.iterdir())
    assert offline == [
        "root-1.pem",
        "root-2.pem",
        "targets-1.pem",
        "targets-2.pem",
        f"team-{MODEL}.pem",
        "team-pump-anomaly.pem",
    ]
    online = world.data_dir / "keys"
    assert sorted(path.name for path in online.iterdir()) == ["director.pem", "snapshot.pem", "timestamp.pem"]
    for folder in (world.keys_dir, online, world.data_dir / "ca"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for key in (*world.keys_dir.iterdir(), *online.iterdir(), world.data_dir / "ca" / "ca.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_the_first_metadata_verifies(world: World) -> None:
    root = Metadata[Root].from_bytes(world.repository.trusted_root()).signed
    assert root.consistent_snapshot
    assert {name: role.threshold for name, role in root.roles.items()} == {
        "root": 2,
        "targets": 2,
        "snapshot": 1,
        "timestamp": 1,
    }
    targets = Metadata[Targets].from_bytes(world.repository.read("1.targets.json"))
    root.verify_delegate("targets", targets.signed_bytes, targets.signatures)
    assert world.repository.models() == (MODEL, "pump-anomaly")


def test_keys_are_never_overwritten(world: World) -> None:
    before = {path: path.read_bytes() for path in world.folder.rglob("*.pem")}
    for keys_dir, data_dir in ((world.keys_dir, world.folder / "new"), (world.folder / "other", world.data_dir)):
        with pytest.raises(FleetError) as caught:
            init_keys(keys_dir, data_dir, [MODEL])
        assert caught.value.code == "keys.exists"
    assert {path: path.read_bytes() for path in world.folder.rglob("*.pem")} == before


@pytest.mark.parametrize("models", [[], ["director"], ["root"], [MODEL, MODEL]])
def test_invalid_model_names_are_refused(tmp_path: Path, models: list[str]) -> None:
    with pytest.raises(FleetError) as caught:
        init_keys(tmp_path / "k", tmp_path / "d", models)
    assert caught.value.code == "keys.models"
    assert not list(tmp_path.iterdir())


def test_signer_from_uri_and_from_path(world: World) -> None:
    path = team_key(world.keys_dir, MODEL)
    keys = world.repository.team_keys(MODEL)
    assert load_signer(f"file2:{path}", keys).public_key == load_signer(path).public_key == keys[0]
    with pytest.raises(FleetError) as caught:
        load_signer(f"file2:{path}", [CryptoSigner.generate_ed25519().public_key])
    assert caught.value.code == "keys.unreadable"


def test_unreadable_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetError) as caught:
        load_signer(tmp_path / "none.pem")
    assert caught.value.code == "keys.missing"
    (tmp_path / "bad.pem").write_bytes(b"garbage")
    with pytest.raises(FleetError) as caught:
        load_signer(tmp_path / "bad.pem")
    assert caught.value.code == "keys.unreadable"
