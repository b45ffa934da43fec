"""What offline keys sign after the first day: roles are renewed, also long after they expired, and models are added."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from tests.fleet.trust.world import MODEL, Killed, World, killed_at, make_csr
from wheeltapper_agent.link.https import HttpsError
from wheeltapper_agent.update.floors import FloorStore
from wheeltapper_agent.update.tuf_client import TufClient, VerifiedMetadata
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.ceremony import add_model, renew_roles
from wheeltapper_fleet.trust.keys import load_signer, team_key
from wheeltapper_fleet.trust.repository import sign_for_team
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.wire.assignment import PipelineTarget
from wheeltapper_protocols.wire.ids import manifest_path

DAY = 86_400.0
SECOND_MODEL = "gear-anomaly"


class Connection:
    """The repository as a device's HTTPS client sees it."""

    base_url = "https://fleet"

    def __init__(self, world: World) -> None:
        self._world = world

    def stream(self, url: str) -> Iterator[bytes]:
        try:
            content = self._world.repository.read(url.rpartition("/")[2])
        except FleetError as error:
            raise HttpsError("fetch.status", error.message, error.status, error.code) from error
        yield content


class DeviceClock:
    """The agent's clock port over the world's clock."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> float:
        return self._world.clock()

    def monotonic(self) -> float:
        return self._world.clock()


def device(world: World, name: str) -> TufClient:
    """The agent's real client on the world's clock; the same name is the same device, with what it has cached."""
    folder = world.folder / name
    folder.mkdir(exist_ok=True)
    root = folder / "root.json"
    if not root.exists():
        root.write_bytes(world.repository.read("1.root.json"))
    floors = FloorStore((folder / "floors-1.json", folder / "floors-2.json"))
    connection: object = Connection(world)
    return TufClient(folder / "tuf", root.read_bytes(), connection, DeviceClock(world), floors)  # type: ignore[arg-type]  # stands for the HTTPS client


def refreshed(world: World, name: str) -> VerifiedMetadata:
    world.repository.refresh_timestamp()
    return device(world, name).refresh(0.0)


def target(world: World, number: int, model: str = MODEL) -> PipelineTarget:
    found = world.repository.releases(model)[number]
    return PipelineTarget(
        model=model, release=number, path=found.path, sha256=found.hashes["sha256"], length=found.length
    )


def refusal(error: pytest.ExceptionInfo[Exception]) -> str:
    assert isinstance(error.value, FleetError | ProtocolError)
    return error.value.code


def everything(world: World) -> dict[str, bytes]:
    """Every file of the keys and of the repository."""
    folders = (world.keys_dir, world.data_dir / "keys", world.data_dir / "tuf", world.data_dir / "ca")
    return {str(path): path.read_bytes() for folder in folders for path in folder.iterdir() if path.name != ".lock"}


def test_roles_that_expired_are_renewed_and_a_device_that_was_away_for_years_verifies_again(world: World) -> None:
    world.publish(1)
    refreshed(world, "press-1").check_target(target(world, 1))
    for _ in range(3):
        world.clock.now += 400 * DAY
        with pytest.raises(Exception, match=r"expired") as expired:
            refreshed(world, "press-1")
        assert getattr(expired.value, "code", "") == "trust.expired"
        assert set(renew_roles(world.keys_dir, world.data_dir, [], clock=world.clock)) >= {"root", "targets", MODEL}
        refreshed(world, "press-1").check_target(target(world, 1))
    world.clock.now += 300 * DAY
    refreshed(world, "enrolled-on-the-first-day").check_target(target(world, 1))
    assert world.repository.newest_root().signed.version == 4
    world.publish(2)
    refreshed(world, "press-1").check_target(target(world, 2))


def test_a_device_that_enrols_after_many_renewals_begins_with_the_newest_root(world: World) -> None:
    """A client walks over 64 roots at most; one that began with the first could not come in any more."""
    world.publish(1)
    for _ in range(66):
        world.clock.now += 30 * DAY
        renew_roles(world.keys_dir, world.data_dir, ["root"], clock=world.clock)
    renew_roles(world.keys_dir, world.data_dir, [], clock=world.clock)
    world = world.restart()
    world.ca.renew()
    answer = world.enrolment.enrol(world.enrolment.create_token("press-1"), make_csr("press-1")[1])
    assert answer.root.encode() == world.repository.read("68.root.json")
    (world.folder / "press-1").mkdir()
    (world.folder / "press-1" / "root.json").write_text(answer.root)
    refreshed(world, "press-1").check_target(target(world, 1))


def test_only_the_named_roles_are_renewed_and_missing_keys_change_nothing(world: World, tmp_path: Path) -> None:
    before = everything(world)
    some = tmp_path / "some-keys"
    some.mkdir()
    for name in ("root-1", "targets-1", "targets-2"):
        (some / f"{name}.pem").write_bytes((world.keys_dir / f"{name}.pem").read_bytes())
    (some / "notes.pem").write_text("not a key")
    for roles in ([], ["root"], ["root", "targets"], [MODEL]):
        with pytest.raises(FleetError) as caught:
            renew_roles(some, world.data_dir, roles, clock=world.clock)
        assert refusal(caught) == "keys.missing"
    for role in ("snapshot", "timestamp", "director", "nobody", "../root"):
        with pytest.raises(FleetError) as caught:
            renew_roles(world.keys_dir, world.data_dir, [role], clock=world.clock)
        assert refusal(caught) == "keys.role"
    assert everything(world) == before
    world.clock.now += 30 * DAY
    ends = {life.name: life.expires_at for life in world.repository.lives()}
    assert renew_roles(some, world.data_dir, ["targets"], clock=world.clock) == ["targets"]
    later = {life.name: life.expires_at for life in world.repository.lives()}
    assert {name for name in ("root", "targets", MODEL) if later[name] > ends[name]} == {"targets"}
    assert later["targets"] == pytest.approx(world.clock() + 365 * DAY, abs=1)


@pytest.mark.parametrize("after", [False, True])
def test_a_renewal_killed_at_any_write_leaves_what_a_device_verifies(
    world: World, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    world.publish(1)
    for nth in range(1, 40):
        finished = False
        with killed_at(monkeypatch, nth, after=after):
            try:
                renew_roles(world.keys_dir, world.data_dir, [], clock=world.clock)
                finished = True
            except Killed:
                pass
        refreshed(world, "press-1").check_target(target(world, 1))
        if finished:
            break
    assert finished
    assert nth > 15


def test_a_model_is_added_to_a_fleet_that_exists(world: World) -> None:
    world.publish(1)
    refreshed(world, "press-1")
    before = everything(world)
    key = add_model(world.keys_dir, world.data_dir, SECOND_MODEL, clock=world.clock)
    assert key == team_key(world.keys_dir, SECOND_MODEL)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    after = everything(world)
    changed = {path for path in before if after[path] != before[path]}
    assert {Path(path).name for path in changed} == {"timestamp.json"}  # no key, no version that was served
    assert set(world.repository.models()) == {MODEL, "pump-anomaly", SECOND_MODEL}
    path = manifest_path(SECOND_MODEL, 1)
    signed = sign_for_team(
        world.repository.role_metadata(SECOND_MODEL), path, b"manifest", load_signer(key), now=world.clock()
    )
    world.repository.publish(SECOND_MODEL, signed)
    seen = refreshed(world, "press-1")
    seen.check_target(target(world, 1, SECOND_MODEL))
    seen.check_target(target(world, 1))


def test_the_new_models_team_signs_nothing_else(world: World) -> None:
    key = add_model(world.keys_dir, world.data_dir, SECOND_MODEL, clock=world.clock)
    foreign = sign_for_team(
        world.repository.role_metadata(MODEL), manifest_path(MODEL, 1), b"x", load_signer(key), now=world.clock()
    )
    with pytest.raises(FleetError) as caught:
        world.repository.publish(MODEL, foreign)
    assert refusal(caught) == "tuf.signature"


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (MODEL, "keys.model_exists"),
        ("root", "keys.models"),
        ("snapshot", "keys.models"),
        ("director", "keys.models"),
        ("Gear", "id.invalid"),
        ("../gear", "id.invalid"),
        ("", "id.invalid"),
    ],
)
def test_a_model_that_cannot_be_added_changes_nothing(world: World, model: str, code: str) -> None:
    before = everything(world)
    with pytest.raises((FleetError, ProtocolError)) as caught:
        add_model(world.keys_dir, world.data_dir, model, clock=world.clock)
    assert refusal(caught) == code
    assert everything(world) == before


def test_a_model_is_not_added_without_the_targets_keys_nor_with_anothers_key(world: World) -> None:
    before = everything(world)
    moved = world.folder / "targets-2.pem"
    (world.keys_dir / "targets-2.pem").rename(moved)
    with pytest.raises(FleetError) as caught:
        add_model(world.keys_dir, world.data_dir, SECOND_MODEL, clock=world.clock)
    assert refusal(caught) == "keys.missing"
    moved.rename(world.keys_dir / "targets-2.pem")
    assert everything(world) == before
    own = team_key(world.keys_dir, SECOND_MODEL)
    for content, code in (
        (b"precious", "keys.unreadable"),
        (team_key(world.keys_dir, MODEL).read_bytes(), "keys.models"),
    ):
        own.write_bytes(content)
        with pytest.raises(FleetError) as caught:
            add_model(world.keys_dir, world.data_dir, SECOND_MODEL, clock=world.clock)
        assert refusal(caught) == code
        assert own.read_bytes() == content
    made = CryptoSigner.generate_ed25519().private_bytes
    own.write_bytes(made)
    add_model(world.keys_dir, world.data_dir, SECOND_MODEL, clock=world.clock)  # a key that the team made itself
    assert own.read_bytes() == made


@pytest.mark.parametrize("after", [False, True])
def test_adding_a_model_killed_at_any_write_is_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    world.publish(1)
    for nth in range(1, 40):
        model, finished = f"gear-{nth}", False
        with killed_at(monkeypatch, nth, after=after):
            try:
                add_model(world.keys_dir, world.data_dir, model, clock=world.clock)
                finished = True
            except Killed:
                pass
        refreshed(world, "press-1").check_target(target(world, 1))
        if model not in world.repository.models():
            add_model(world.keys_dir, world.data_dir, model, clock=world.clock)
        assert refreshed(world, "press-1").updater.get_targetinfo(manifest_path(model, 1)) is None
        if finished:
            break
    assert finished
    assert nth > 12


def test_nothing_is_published_that_no_device_could_verify(world: World) -> None:
    world.publish(1)
    world.clock.now += 300 * DAY
    world.publish(2)  # the team's metadata live on from here; those of root and targets do not
    world.clock.now += 60 * DAY
    world.repository.refresh_timestamp()
    manifest = world.manifest(3)
    before = everything(world)
    for role in ("root", "targets"):
        with pytest.raises(FleetError, match=f"--role {role}") as caught:
            world.releases.publish(MODEL, manifest, world.signed(3, manifest), "tester")
        assert refusal(caught) == "trust.expired"
        assert caught.value.status == 409
        assert everything(world) == before
        renew_roles(world.keys_dir, world.data_dir, [role], clock=world.clock)
        before = everything(world)
    world.publish(3)
    refreshed(world, "press-1").check_target(target(world, 3))


def test_a_team_whose_metadata_expired_publishes_again(world: World) -> None:
    world.publish(1)
    world.clock.now += 400 * DAY
    renew_roles(world.keys_dir, world.data_dir, ["root", "targets"], clock=world.clock)
    with pytest.raises(FleetError) as caught:
        world.repository.check_alive(MODEL, world.clock())
    assert refusal(caught) == "trust.expired"
    world.publish(2)
    world.repository.check_alive(MODEL, world.clock() + 300 * DAY)
    refreshed(world, "press-1").check_target(target(world, 1))
