from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from sqlalchemy import text as sql
from tuf.api.exceptions import DownloadHTTPError

from tests.fleet.captures.test_captures import ask, recording_bytes
from tests.fleet.device_api.client import Client, Listener
from tests.fleet.trust.world import MODEL, World, make_csr, sha256
from wheeltapper_fleet.device_api.rate_limit import RateLimit
from wheeltapper_fleet.devices.lifecycle import forget_device
from wheeltapper_fleet.devices.rules import Action
from wheeltapper_fleet.devices.service import Devices
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.ca import FleetCA
from wheeltapper_protocols.manifest.manifest import check_file, decode_manifest
from wheeltapper_protocols.wire.ids import manifest_path


def enrol(client: Client, token: str, csr: bytes) -> tuple[int, dict[str, str]]:
    answer = client.ask("POST", "/v1/enrol", json.dumps({"token": token, "csr": csr.decode()}).encode())
    return answer.status, answer.json


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_a_device_enrols_and_fetches_a_release(listener: Listener, world: World) -> None:
    """All that a device fetches: CA (checked by its digest), certificate, metadata, manifest, files."""
    world.publish(1)
    token = world.enrolment.create_token("dev-1")
    pem = Client(listener.url, urllib3.PoolManager(cert_reqs="CERT_NONE", assert_hostname=False)).get("/v1/enrol/ca")
    der = x509.load_pem_x509_certificate(pem.body).public_bytes(serialization.Encoding.DER)
    assert hashlib.sha256(der).hexdigest() == token.split(".")[3]
    key, csr = make_csr("dev-1")
    status, answer = enrol(listener.client(), token, csr)
    assert status == 200
    assert set(answer) == {"device", "certificate", "ca", "root", "mqtt_host", "mqtt_port", "https_url", "brokers"}
    client = listener.client(answer["certificate"].encode(), key)
    target = client.updater(world.folder / "tuf-cache", answer["root"].encode()).get_targetinfo(manifest_path(MODEL, 1))
    assert target is not None
    manifest = client.get(f"/v1/blobs/{target.hashes['sha256']}").body
    target.verify_length_and_hashes(manifest)
    for file in decode_manifest(manifest).files:
        check_file(file, client.get(f"/v1/blobs/{file.sha256}").body)


def test_a_tuf_client_sees_releases_that_are_published_later(listener: Listener, world: World) -> None:
    client = listener.enrolled("dev-1")
    root = world.repository.trusted_root()
    path = manifest_path(MODEL, 1)
    assert client.updater(world.folder / "a", root).get_targetinfo(path) is None
    world.publish(1)
    assert client.updater(world.folder / "b", root).get_targetinfo(path) is not None
    assert client.updater(world.folder / "c", root).get_targetinfo(manifest_path("pump-anomaly", 1)) is None


def test_enrolments_are_refused_for_bad_tokens_and_csrs(listener: Listener, world: World) -> None:
    client = listener.client()
    _, csr = make_csr("dev-1")
    token = world.enrolment.create_token("dev-1")
    made_up = f"wt1.dev-1.{'A' * 43}.{'0' * 64}"
    for text in (made_up, "wt1.dev-1.x.y", ""):
        status, answer = enrol(client, text, csr)
        assert (status, answer["code"]) == (403, "enrol.token_unknown")
    status, answer = enrol(client, token, make_csr("dev-2")[1])
    assert (status, answer["code"]) == (403, "enrol.cn_mismatch")
    status, answer = enrol(client, token, b"garbage")
    assert (status, answer["code"]) == (400, "enrol.csr_invalid")
    assert enrol(client, token, csr)[0] == 200
    status, answer = enrol(client, token, csr)
    assert (status, answer["code"]) == (403, "enrol.token_used")
    expired = world.enrolment.create_token("dev-3", ttl_seconds=1)
    world.clock.now += 2
    status, answer = enrol(client, expired, make_csr("dev-3")[1])
    assert (status, answer["code"]) == (403, "enrol.token_expired")
    assert token.split(".")[2] not in json.dumps(answer)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "api.bad_request"),
        (b"[" * 10_000, 400, "api.bad_request"),
        (b'{"token": 1, "csr": ""}', 400, "api.bad_request"),
        (b'{"token": "\\ud800", "csr": "\\ud800"}', 400, "api.bad_request"),
        (b"\xff", 400, "api.bad_request"),
        (b"x" * 100_000, 413, "api.too_large"),
    ],
)
def test_malformed_bodies_are_refused(listener: Listener, body: bytes, status: int, code: str) -> None:
    answer = listener.client().ask("POST", "/v1/enrol", body)
    assert (answer.status, answer.code) == (status, code)


def test_enrolments_that_fail_are_limited_per_address(listener: Listener) -> None:
    client = listener.client()
    codes = [client.ask("POST", "/v1/enrol", b"{}").code for _ in range(10)]
    assert codes == ["api.bad_request"] * 8 + ["api.rate_limited"] * 2


def test_a_factory_behind_one_address_enrols(listener: Listener, world: World) -> None:
    """More devices than may fail; the limit of failures is used up by failures alone, and comes back with time."""
    client = listener.client()
    for number in range(12):
        token = world.enrolment.create_token(f"dev-{number}")
        assert enrol(client, token, make_csr(f"dev-{number}")[1])[0] == 200
    token, csr = world.enrolment.create_token("dev-99"), make_csr("dev-99")[1]
    unknown = token.replace(token.split(".")[2], "A" * 43)
    assert [enrol(client, unknown, csr)[0] for _ in range(9)] == [403] * 8 + [429]
    assert enrol(client, token, csr)[0] == 429
    listener.ahead_seconds += 61.0
    assert enrol(client, token, csr)[0] == 200


def test_attempts_are_limited_whatever_becomes_of_them() -> None:
    now = [0.0]
    limit = RateLimit(3, lambda: now[0])
    for _ in range(3):
        limit.take("10.0.0.1")
    with pytest.raises(FleetError, match=r"try again in 20 s \[api\.rate_limited\]"):
        limit.take("10.0.0.1")
    limit.take("10.0.0.2")
    now[0] += 20.0
    limit.take("10.0.0.1")


def test_what_fails_within_is_answered_with_a_code(listener: Listener, world: World) -> None:
    with world.engine.begin() as connection:
        connection.execute(sql("DROP TABLE enrolment_tokens"))
    token = f"wt1.dev-1.{'A' * 43}.{'0' * 64}"
    status, answer = enrol(listener.client(), token, make_csr("dev-1")[1])
    assert (status, answer["code"]) in [(500, "api.internal"), (503, "api.database")]
    assert "enrolment_tokens" not in json.dumps(answer)


PROTECTED = ["/v1/tuf/timestamp.json", "/v1/tuf/1.root.json", f"/v1/blobs/{'0' * 64}"]


def test_requests_without_a_known_certificate_are_refused(listener: Listener, world: World) -> None:
    nobody = listener.client()
    forged = {"wheeltapper_cn": "dev-1", "x-forwarded-for": "1.2.3.4", "x-client-cn": "dev-1"}
    for path in PROTECTED:
        assert (nobody.get(path, forged).status, nobody.get(path).code) == (401, "api.unauthorized")
    put = nobody.ask("PUT", "/v1/captures/c-1", b"x")
    assert (put.status, put.code) == (401, "api.unauthorized")
    ingest = world.ca.ingest_files()
    stranger = listener.client(ingest.certificate.read_bytes(), ingest.key.read_bytes())
    assert (stranger.get(PROTECTED[0]).status, stranger.get(PROTECTED[0]).code) == (403, "device.unknown")


def test_revoked_devices_and_replaced_certificates_are_refused(listener: Listener, world: World) -> None:
    client = listener.enrolled("dev-1")
    assert client.get(PROTECTED[0]).status == 200
    Devices(world.engine, world.clock).move("dev-1", Action.REVOKE, who="ann")
    for path in PROTECTED:
        assert (client.get(path).status, client.get(path).code) == (403, "device.revoked")
    with pytest.raises(DownloadHTTPError):
        client.updater(world.folder / "cache", world.repository.trusted_root()).refresh()
    forget_device(world.engine, "dev-1", who="ann", now=1.0)
    assert client.get(PROTECTED[0]).code == "device.unknown"
    again = listener.enrolled("dev-1")
    assert again.get(PROTECTED[0]).status == 200
    assert (client.get(PROTECTED[0]).status, client.get(PROTECTED[0]).code) == (403, "device.certificate_replaced")


def test_a_certificate_of_another_ca_fails_the_handshake(listener: Listener, world: World) -> None:
    world.enrol("dev-1")
    other = FleetCA.create(world.folder / "other-ca", world.clock)
    key, csr = make_csr("dev-1")
    client = listener.client(other.sign_device_csr(csr, "dev-1").pem, key)
    with pytest.raises(urllib3.exceptions.HTTPError):
        client.get(PROTECTED[0])
    server = world.ca.server_files()  # the right CA, but not a client's certificate
    client = listener.client(server.certificate.read_bytes(), server.key.read_bytes())
    with pytest.raises(urllib3.exceptions.HTTPError):
        client.get(PROTECTED[0])
    assert listener.client().get("/v1/enrol/ca").status == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_tls_is_refused(listener: Listener) -> None:
    context = listener.context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    pool = urllib3.PoolManager(ssl_context=context)
    modern = listener.context()
    modern.maximum_version = ssl.TLSVersion.TLSv1_2
    assert Client(listener.url, urllib3.PoolManager(ssl_context=modern)).get("/v1/enrol/ca").status == 200
    with pytest.raises((urllib3.exceptions.HTTPError, ssl.SSLError)):
        Client(listener.url, pool).get("/v1/enrol/ca")


def test_blobs_can_be_fetched_in_ranges(listener: Listener, world: World) -> None:
    client = listener.enrolled("dev-1")
    content = bytes(range(256)) * 8000
    path = f"/v1/blobs/{world.blobs.put_bytes(content).sha256}"
    whole = client.get(path)
    assert (whole.status, whole.body, whole.headers["accept-ranges"]) == (200, content, "bytes")
    part = client.get(path, {"Range": "bytes=1000-"})
    assert (part.status, part.body) == (206, content[1000:])
    assert part.headers["content-range"] == f"bytes 1000-{len(content) - 1}/{len(content)}"
    assert client.get(path, {"Range": "bytes=10-19"}).body == content[10:20]
    assert client.get(path, {"Range": f"bytes={len(content)}-"}).status == 416
    for bad in ("/v1/blobs/../keys/director.pem", "/v1/blobs/%2e%2e%2fkeys%2fdirector.pem", f"/v1/blobs/{'0' * 64}"):
        assert client.get(bad).status == 404
        assert "code" in client.get(bad).json


def test_unknown_paths_are_answered_with_json(listener: Listener) -> None:
    client = listener.enrolled("dev-1")
    for path in ("/", "/docs", "/openapi.json", "/v1/tuf/root.json", "/v1/tuf/..%2fkeys%2fdirector.pem"):
        assert client.get(path).status == 404
        assert client.get(path).code in {"api.not_found", "tuf.not_found"}
    assert client.ask("DELETE", "/v1/tuf/timestamp.json").status == 405


def test_uploading_a_capture(listener: Listener, world: World) -> None:
    client, other = listener.enrolled("dev-1"), listener.enrolled("dev-2")
    ask(world, "c-1")
    content = recording_bytes(40, 4096)
    head = {"X-Content-SHA256": sha256(content)}
    for who, command, body, headers, status, code in [
        (client, "c-9", content, head, 404, "capture.command_unknown"),
        (other, "c-1", content, head, 403, "capture.device_mismatch"),
        (client, "c-1", content, {}, 400, "capture.hash"),
        (client, "c-1", b"garbage", {"X-Content-SHA256": sha256(b"garbage")}, 400, "capture.invalid"),
    ]:
        answer = who.ask("PUT", f"/v1/captures/{command}", body, headers)
        assert (answer.status, answer.code) == (status, code)
    first = client.ask("PUT", "/v1/captures/c-1", content, head)
    assert first.status == 200
    assert first.json["snapshots"] == 40
    assert client.ask("PUT", "/v1/captures/c-1", content, head).json == first.json
    assert world.captures.path(sha256(content)).read_bytes() == content


def test_a_capture_over_the_limit_is_cut_off(listener: Listener, world: World) -> None:
    client = listener.enrolled("dev-1")
    ask(world, "c-1")

    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(100_000)

    try:
        answer = client.ask("PUT", "/v1/captures/c-1", endless(), {"X-Content-SHA256": "0" * 64})
    except urllib3.exceptions.HTTPError:
        pass  # the server may close before everything was sent
    else:
        assert (answer.status, answer.code) == (413, "capture.too_large")
    assert not list((world.data_dir / "captures").iterdir())


def test_many_devices_at_once(listener: Listener, world: World) -> None:
    clients = [listener.enrolled(f"dev-{number}") for number in range(6)]
    content = b"z" * 1_000_000
    path = f"/v1/blobs/{world.blobs.put_bytes(content).sha256}"
    with ThreadPoolExecutor(6) as pool:
        assert all(answer.body == content for answer in pool.map(lambda client: client.get(path), clients * 3))
