"""``doctor``: each check fails when what it checks is really broken, and gives advice."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from tests.agent.repository import Repository
from tests.agent.servers import Authority, DeviceServer, Mosquitto, free_port
from tests.legacy import needs_onnx
from wheeltapper_agent.cli import app
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile, load_profile
from wheeltapper_agent.host.connection_checks import check_broker, check_certificate, check_https
from wheeltapper_agent.host.doctor import check_connections, examine
from wheeltapper_agent.host.finding import FAIL, OK, WARN, Finding
from wheeltapper_agent.host.local_socket import SOCKET_FILE, LocalServer
from wheeltapper_agent.host.machine_checks import check_clock, check_disk, check_profile, kernel_synchronised
from wheeltapper_agent.host.runtime_checks import check_runtimes
from wheeltapper_agent.link.identity import Identity, enroll, load_identity, parse_token
from wheeltapper_agent.update.floors import FLOORS_FILE, Floors, FloorStore

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
NOW = 1_800_000_000.0


class World:
    """An enrolled device with its fleet: HTTPS server and broker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "ca")
        self.broker = Mosquitto(self.authority, folder / "broker")
        self.server = DeviceServer(self.authority, Repository(), self.broker.port)
        self.state = folder / "state"
        token = parse_token(f"wt1.device-1.{'s' * 43}.{self.authority.sha256}")
        self.identity = enroll(self.server.url, token, self.state)
        self.config = folder / "agent.toml"
        self.config.write_text(
            '[device]\nstate_dir = "state"\n[[pipelines]]\nname = "main"\nsource = { kind = "simulator" }\n'
        )

    def close(self) -> None:
        self.server.close()
        self.broker.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("doctor"))
    yield made
    made.close()


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """The shared world, its identity put back afterwards."""
    kept = {path: (path.read_bytes(), path.stat().st_mode) for path in (shared.state / "identity").iterdir()}
    yield shared
    for path, (content, mode) in kept.items():
        path.write_bytes(content)
        path.chmod(mode)
    shared.server.planted.clear()


def _certificate(
    issuer: Authority,
    key: ec.EllipticCurvePrivateKey,
    name: str = "device-1",
    begin_days: int = -10,
    end_days: int = 90,
) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=begin_days))
        .not_valid_after(now + datetime.timedelta(days=end_days))
    )
    return builder.sign(issuer._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _key(identity: Identity) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(identity.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


# --- everything together ----------------------------------------------------------------------------------------------


@needs_onnx
def test_a_healthy_device(world: World) -> None:
    local = LocalServer(world.state / SOCKET_FILE, lambda _: {"connected": True, "troubles": []})
    local.start()
    done = CliRunner().invoke(app, ["doctor", "--config", str(world.config), "--json"])
    local.stop()
    body = json.loads(done.stdout)
    by_name = {check["check"]: check for check in body["checks"]}
    assert done.exit_code == 0, body
    assert body["healthy"] is True
    expected = {"configuration", "profile.arch", "profile.memory", "runtime.onnx", "runtime.tflite", "clock", "disk"}
    assert set(by_name) == expected | {"certificate", "network.https", "network.broker", "agent"}
    for name in ("configuration", "runtime.onnx", "network.https", "network.broker", "agent", "disk"):
        assert by_name[name]["verdict"] == OK, by_name[name]
    assert by_name["runtime.onnx"]["found"] == "uses CPUExecutionProvider of onnxruntime"


def test_every_finding_that_is_not_ok_has_advice(world: World) -> None:
    world.identity.key.chmod(0o644)
    findings = examine(world.config)
    assert any(finding.verdict == FAIL for finding in findings)
    assert all(finding.advice for finding in findings if finding.verdict != OK)
    done = CliRunner().invoke(app, ["doctor", "--config", str(world.config)])
    assert done.exit_code == 3
    assert "FAIL  certificate: " in done.stdout
    assert "      -> chmod 600 " in done.stdout


def test_a_device_that_is_not_enrolled(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text('[device]\nstate_dir = "."\n')
    verdicts = {finding.check: finding for finding in examine(tmp_path / "agent.toml")}
    assert verdicts["certificate"].verdict == FAIL
    assert "enroll" in verdicts["certificate"].advice
    assert verdicts["configuration"].verdict == WARN  # no pipeline
    assert [path.name for path in tmp_path.iterdir()] == ["agent.toml"]  # doctor leaves nothing of its own


@pytest.mark.parametrize(
    "text", ["= 1", "[device]\nstate_dir = 3\n", '[device]\nstate_dir = "s"\nprofile = "cray-1"\n']
)
def test_a_broken_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "agent.toml").write_text(text)
    done = CliRunner().invoke(app, ["doctor", "--config", str(tmp_path / "agent.toml"), "--json"])
    assert done.exit_code == 3
    assert [check["check"] for check in json.loads(done.stdout)["checks"]] == ["configuration"]


# --- profile and runtimes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "ram_mb", "arch", "memory"),
    [
        ("aarch64", 4000.0, OK, OK),
        ("x86_64", 4000.0, FAIL, OK),
        ("armv7l", 450.0, FAIL, WARN),
        ("aarch64", 256.0, OK, FAIL),
        ("aarch64", None, OK, WARN),
    ],
)
def test_profile_and_machine(machine: str, ram_mb: float | None, arch: str, memory: str) -> None:
    findings = check_profile(load_profile("raspberry-pi-4"), machine, ram_mb)
    assert [finding.verdict for finding in findings] == [arch, memory]


def _plant(folder: Path, module: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a broken installation of ``module`` before the real one."""
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("raise ImportError('libgomp.so.1 is missing')", "libgomp.so.1 is missing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "signal 4"),
        ("import sys; sys.exit(0)", "its list of providers cannot be read"),
    ],
)
def test_a_broken_runtime(tmp_path: Path, text: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(tmp_path, "onnxruntime", text, monkeypatch)
    findings = check_runtimes(Profile(name="a", runtimes=("onnxruntime",)))
    assert [finding.verdict for finding in findings] == [WARN, FAIL]
    assert found in findings[0].found
    assert "wheeltapper-agent[onnx]" in findings[1].advice


@needs_onnx
def test_a_provider_that_is_missing_is_named_with_its_replacement() -> None:
    (onnx,) = check_runtimes(
        Profile(name="a", runtimes=("onnxruntime",), providers=("TensorrtExecutionProvider", "CPUExecutionProvider"))
    )
    assert onnx.verdict == WARN
    assert onnx.found == "uses CPUExecutionProvider of onnxruntime; TensorrtExecutionProvider is not installed"
    (none,) = check_runtimes(Profile(name="a", runtimes=("onnxruntime",), providers=("CUDAExecutionProvider",)))
    assert none.verdict == WARN
    assert "uses CPUExecutionProvider" in none.found


def test_a_delegate_is_used_where_its_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libvx_delegate.so"
    for module in ("ai_edge_litert", "ai_edge_litert/interpreter"):
        _plant(tmp_path, module, "", monkeypatch)
    profile = Profile(name="a", runtimes=("ai-edge-litert",), providers=(f"delegate:{library}", "XNNPACK"))
    (without,) = check_runtimes(profile)
    library.write_bytes(b"")
    (with_it,) = check_runtimes(profile)
    assert (without.verdict, with_it.verdict) == (WARN, OK)
    assert without.found.startswith("uses XNNPACK of ai-edge-litert; ")
    assert with_it.found == f"uses delegate:{library} of ai-edge-litert"


def test_the_next_runtime_replaces_one_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(tmp_path, "ai_edge_litert", "raise ImportError('no')", monkeypatch)
    for module in ("tflite_runtime", "tflite_runtime/interpreter"):
        _plant(tmp_path, module, "", monkeypatch)
    (found,) = check_runtimes(Profile(name="a", runtimes=("ai-edge-litert", "tflite-runtime")))
    assert found.verdict == WARN
    assert found.found.startswith("uses XNNPACK of tflite-runtime; not ai-edge-litert: ")


# --- clock ------------------------------------------------------------------------------------------------------------


def test_a_clock_that_cannot_be_right(tmp_path: Path) -> None:
    for now in (0.0, 1e9, 5e9, -1.0, 1e300):
        found = check_clock(tmp_path, now, True)
        assert found.verdict == FAIL
        assert "timedatectl" in found.advice


def test_a_clock_before_the_newest_time_that_the_fleet_signed(tmp_path: Path) -> None:
    FloorStore((tmp_path / FLOORS_FILE,)).raise_to(Floors(newest_time_seconds=NOW + 10 * 86400.0))
    found = check_clock(tmp_path, NOW, True)
    assert found.verdict == FAIL
    assert "10.0 days before" in found.found
    assert check_clock(tmp_path, NOW + 11 * 86400.0, True).verdict == OK


def test_a_clock_that_is_not_synchronised(tmp_path: Path) -> None:
    assert check_clock(tmp_path, NOW, False).verdict == WARN
    assert check_clock(tmp_path, NOW, None).verdict == WARN
    assert kernel_synchronised() in (True, False)


# --- disk -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Any]:
    """Mounts a small file system with the given options at a folder."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(options: str) -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], check=False)


@as_root
def test_a_read_only_disk(mounted: Any) -> None:
    (found,) = check_disk(mounted("ro"), 10.0)
    assert found.verdict == FAIL
    assert "read-only" in found.found
    assert "mount it writable" in found.advice


@as_root
def test_a_full_disk(mounted: Any) -> None:
    folder = mounted("size=256k")
    with pytest.raises(OSError):
        (folder / "all").write_bytes(b"x" * 300_000)
    (found,) = check_disk(folder, 10.0)
    assert found.verdict == FAIL
    assert "free space" in found.advice


@as_root
def test_a_small_disk(mounted: Any) -> None:
    folder = mounted("size=100m")
    assert check_disk(folder, 10.0)[0].verdict == OK
    (found,) = check_disk(folder, 500.0)
    assert found.verdict == WARN
    (folder / "much").write_bytes(bytes(60_000_000))
    (found,) = check_disk(folder, 10.0)
    assert found.verdict == FAIL
    assert [path.name for path in folder.iterdir()] == ["much"]


def test_the_probe_file_follows_no_link_and_has_a_random_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, victim = tmp_path / "state", tmp_path / "victim"
    state.mkdir()
    victim.write_text("not yours")
    (state / f".doctor.{os.getpid()}").symlink_to(victim)
    assert check_disk(state, 0.0)[0].check == "disk"
    assert victim.read_text() == "not yours"
    with monkeypatch.context() as patch:  # even where the name is known beforehand
        names = iter(["known", "free"])
        patch.setattr(tempfile, "_get_candidate_names", lambda: names)
        (state / ".doctor.known").symlink_to(victim)
        assert check_disk(state, 0.0)[0].check == "disk"
    assert victim.read_text() == "not yours"
    assert sorted(path.name for path in state.iterdir()) == sorted([f".doctor.{os.getpid()}", ".doctor.known"])


def test_a_missing_folder(tmp_path: Path) -> None:
    assert check_disk(tmp_path / "none", 1.0)[0].verdict == FAIL


# --- certificate ------------------------------------------------------------------------------------------------------


def _parts(finding: Finding) -> tuple[str, str, str]:
    return finding.verdict, finding.found, finding.advice


def _checked(world: World, now: float | None = None) -> tuple[str, str, str]:
    return _parts(check_certificate(load_identity(world.state), world.state, time.time() if now is None else now))


def test_a_good_certificate_and_one_that_ends_soon(world: World) -> None:
    world.identity.certificate.write_bytes(_certificate(world.authority, _key(world.identity)))
    assert _checked(world)[0] == OK
    world.identity.certificate.write_bytes(_certificate(world.authority, _key(world.identity), end_days=20))
    verdict, found, _ = _checked(world)
    assert verdict == WARN
    assert "expires in 20 days" in found or "expires in 19 days" in found


def test_an_open_key(world: World) -> None:
    world.identity.key.chmod(0o640)
    verdict, found, advice = _checked(world)
    assert verdict == FAIL
    assert "0640" in found
    assert advice.startswith("chmod 600")


@as_root
def test_a_key_of_another_user(world: World) -> None:
    os.chown(world.identity.key, 65534, 65534)
    verdict, _, advice = _checked(world)
    os.chown(world.identity.key, 0, 0)
    assert verdict == FAIL
    assert advice.startswith("chown -R")


def test_a_certificate_for_another_key(world: World) -> None:
    world.identity.certificate.write_bytes(_certificate(world.authority, ec.generate_private_key(ec.SECP256R1())))
    assert _checked(world)[:2] == (FAIL, "the certificate is not for the key")


def test_a_certificate_of_another_device(world: World) -> None:
    world.identity.certificate.write_bytes(_certificate(world.authority, _key(world.identity), "device-2"))
    assert _checked(world)[0] == FAIL


def test_a_certificate_of_another_ca(world: World, tmp_path: Path) -> None:
    world.identity.certificate.write_bytes(_certificate(Authority(tmp_path / "other"), _key(world.identity)))
    assert _checked(world)[:2] == (FAIL, "the certificate was not issued by the fleet's CA")


def test_a_certificate_that_is_not_valid_now(world: World) -> None:
    world.identity.certificate.write_bytes(_certificate(world.authority, _key(world.identity), end_days=-1))
    verdict, found, advice = _checked(world)
    assert verdict == FAIL
    assert "expired" in found
    assert "clock" in advice
    world.identity.certificate.write_bytes(_certificate(world.authority, _key(world.identity), begin_days=5))
    assert _checked(world)[0] == FAIL


@pytest.mark.parametrize("name", ["device.key", "device.crt", "ca.pem"])
def test_a_file_of_the_identity_that_is_damaged(world: World, name: str) -> None:
    path = world.state / "identity" / name
    path.write_bytes(path.read_bytes()[:100])
    verdict, _, advice = _checked(world)
    assert verdict == FAIL
    assert "enrol again" in advice


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@as_root
def test_what_another_user_may_not_read_is_reported_as_denied_not_as_missing(world: World) -> None:
    with _as_nobody():
        with pytest.raises(AgentError) as caught:
            load_identity(world.state)
        (config,) = examine(world.config)
        (disk,) = check_disk(world.state, 1.0)
        found = {finding.check: finding for finding in check_connections(world.state, world.identity)}
    assert caught.value.code == "enrol.denied"
    for finding in (config, disk, *found.values()):
        assert finding.verdict == FAIL
        assert "as root or as the service's user" in finding.advice, finding
        assert "firewall" not in finding.advice
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wheeltapper_agent.host.doctor.load_identity", _denied)
        patch.setattr("wheeltapper_agent.host.doctor.check_runtimes", lambda _: [])
        certificate = examine(world.config)[-1]
    assert (certificate.check, certificate.verdict) == ("certificate", FAIL)
    assert "as root" in certificate.advice


def _denied(_: Path) -> Identity:
    raise AgentError("enrol.denied", "closed")


# --- network ----------------------------------------------------------------------------------------------------------


def _with_fleet(world: World, **changes: Any) -> Identity:
    path = world.state / "identity/fleet.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return load_identity(world.state)


def test_the_fleet_answers(world: World) -> None:
    assert check_https(world.identity).verdict == OK
    assert check_broker(world.identity).verdict == OK


def test_a_host_name_that_cannot_be_resolved(world: World) -> None:
    identity = _with_fleet(world, https_url="https://fleet.invalid:8443", mqtt_host="broker.invalid")
    for check in (check_https, check_broker):
        verdict, found, advice = _parts(check(identity))
        assert verdict == FAIL
        assert "cannot be resolved" in found
        assert "DNS" in advice


def test_a_port_where_nobody_listens(world: World) -> None:
    identity = _with_fleet(world, https_url=f"https://127.0.0.1:{free_port()}", mqtt_port=free_port())
    for check in (check_https, check_broker):
        verdict, _, advice = _parts(check(identity))
        assert verdict == FAIL
        assert "firewall" in advice


def test_a_fleet_that_refuses_the_device(world: World) -> None:
    world.server.planted["/v1/tuf/timestamp.json"] = (403, b'{"code":"device.revoked","message":"revoked"}')
    verdict, _, advice = _parts(check_https(world.identity))
    assert verdict == FAIL
    assert "revoked" in advice


def test_a_fleet_of_another_ca(world: World, tmp_path: Path) -> None:
    world.identity.ca.write_bytes(Authority(tmp_path / "other").pem)
    assert check_https(world.identity).verdict == FAIL
    assert check_broker(world.identity).verdict == FAIL


def test_a_broker_that_refuses_the_certificate(world: World, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    world.identity.certificate.write_bytes(_certificate(Authority(tmp_path / "other"), key))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    world.identity.key.write_bytes(pem)
    verdict, found, advice = _parts(check_broker(world.identity))
    assert verdict == FAIL, found
    assert "revoked" in advice
    assert ssl.HAS_TLSv1_3


def test_the_agents_own_troubles_are_found(world: World) -> None:
    local = LocalServer(world.state / SOCKET_FILE, lambda _: {"troubles": ["pipeline main hangs since 90 s"]})
    local.start()
    found = next(finding for finding in examine(world.config) if finding.check == "agent")
    local.stop()
    assert found.verdict == FAIL
    assert "hangs" in found.found
    gone = next(finding for finding in examine(world.config) if finding.check == "agent")
    assert gone.verdict == WARN
