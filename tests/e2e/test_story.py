"""The demo's story with real processes: checks each step that `make demo` shows."""

from __future__ import annotations

import stat
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.e2e.database import assignments, windows_by_device
from wheeltapper_fleet.demo.stage import Stage, wait_for
from wheeltapper_fleet.demo.story import Story
from wheeltapper_protocols.wire.messages import ExecutionState

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]


def check_identities(stage: Stage, story: Story) -> None:
    """Each device has its own key and a certificate for it from the fleet's CA, with its name."""
    ca = x509.load_pem_x509_certificate((stage.data_dir / "ca" / "ca.pem").read_bytes())
    keys = set()
    for device in story.device_ids:
        folder = stage.agent_folder(device) / "state" / "identity"
        key_file = folder / "device.key"
        assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
        certificate = x509.load_pem_x509_certificate((folder / "device.crt").read_bytes())
        certificate.verify_directly_issued_by(ca)
        name = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        assert [attribute.value for attribute in name] == [device]
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        public = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        assert key.public_key().public_bytes(*public) == certificate.public_key().public_bytes(*public)
        secret = key_file.read_bytes()
        keys.add(secret)
        body = b"".join(secret.splitlines()[1:-1])
        for file in stage.data_dir.rglob("*"):
            if file.is_file():
                assert body not in file.read_bytes().replace(b"\n", b""), f"{file} holds the key of {device}"
    assert len(keys) == len(story.device_ids)


def check_windows(stage: Stage, story: Story) -> None:
    """No window is missing between the first and the last, and none is stored twice, in spite of swaps."""
    for device, windows in windows_by_device(stage).items():
        indices = [index for index, _ in windows]
        assert indices == list(range(indices[0], indices[0] + len(indices))), device
        assert indices[0] == 0, device
        releases = [release for _, release in windows]
        assert releases[0] is None
        scored = [release for release in releases if release is not None]
        assert set(scored) <= {1, 3}, f"{device} ran the broken release"
        assert scored == sorted(scored), f"{device} went back and forth"
        assert releases.index(scored[0]) + len(scored) == len(releases), f"{device} had windows without a model"


def ended(stage: Stage, campaign: str) -> dict[str, dict[str, Any]] | None:
    """{device: execution} when every execution of the first wave has ended; None before."""
    rows = {row["device"]: row for row in stage.client.executions(campaign)}
    over = all(ExecutionState(row["state"]).terminal for row in rows.values() if row["wave"] == 1)
    return rows if over else None


def check_drift(stage: Stage, story: Story) -> None:
    """After release 1 ended on all devices: their drift reports cover each window that it scored once, and merge."""
    found = stage.client.drift(stage.model, 1)
    assert set(found["devices"]) == set(story.device_ids)
    scored = sum(release == 1 for windows in windows_by_device(stage).values() for _, release in windows)
    assert found["windows"] + found["unscored"] == scored
    assert all(feature["n"] == found["windows"] for feature in (found["score"], *found["features"]))
    assert found["left_out"] == 0


def runs(stage: Stage, story: Story) -> tuple[str, int]:
    """What the device of the second machine says that it runs."""
    found = stage.client.device(story.second["device"])["pipelines"][0]
    return found["model"], found["release"]


def test_the_whole_story(stage: Stage) -> None:
    story = Story(stage)

    # 1. Five devices enrol; the private key never leaves the device.
    story.enrol()
    assert stage.client.summary()["devices_enrolled"] == 5
    check_identities(stage, story)

    # 2. Captured, trained, signed, published; campaign 1 takes it to all devices in two waves.
    recordings = story.capture()
    first = story.train(recordings, "first", 1.0)
    assert story.publish(first) == 1
    done = story.await_campaign(story.campaign(1), "COMPLETED")
    assert [sum(wave.values()) for _, wave in sorted(done["executions"].items())] == [2, 3]
    assert all(set(wave) == {"COMMITTED"} for wave in done["executions"].values())

    # 3. A broken release: the first wave refuses it, the second is never assigned it.
    assert story.publish(story.break_release(first), tested=False) == 2
    broken = story.campaign(2)
    story.await_campaign(broken, "PAUSED")
    # The first refusal pauses the campaign; the other device of the wave may still be testing, and ends by itself.
    executions = wait_for("the first wave to end", lambda: ended(stage, broken), 60.0)
    first_wave = {device for device, row in executions.items() if row["wave"] == 1}
    assert {executions[device]["state"] for device in first_wave} == {"REJECTED"}
    assert {executions[device]["code"].split(".")[0] for device in first_wave} == {"self_test"}
    assert assignments(stage, broken) == first_wave

    # 4. Release 3 is good.
    assert story.publish(story.train(recordings, "third", 1.0, seed=3)) == 3
    story.await_campaign(story.campaign(3), "COMPLETED")
    assert assignments(stage, broken) == first_wave

    # 5. One bearing wears out; its alert comes well before its failure, the others stay silent.
    story.wear_out()
    alert = story.await_alert()
    worn = story.fault
    life = worn["failure_s"] - worn["onset_s"]
    assert worn["onset_s"] < alert["t_s"] < worn["failure_s"] - 0.2 * life
    assert alert["reasons"]
    assert sum(reason["share"] for reason in alert["reasons"]) <= 1.0 + 1e-6
    assert all(reason["value"] != reason["usual"] for reason in alert["reasons"])
    check_drift(stage, story)
    [case] = wait_for(
        "triage to open a case", lambda: stage.client.call("GET", "/cases", order="newest")["items"] or None, 30.0
    )
    assert (case["device"], case["kind"]) == (worn["device"], "machine")
    assert case["why"]

    # 6. Another machine gets a model of its own, which the fleet did not have when its keys were made.
    story.second_model()
    wait_for("the fan's device to say what it runs", lambda: runs(stage, story) == ("fan-anomaly", 1), 60.0)
    assert assignments(stage, story.second["campaign"]) == {story.second["device"]}

    result = story.finish()
    assert result["second_model"]["release"] == 1
    assert {entry["device"] for entry in result["alerts"]} == {worn["device"]}
    assert result["records_missing"] == 0
    assert result["releases"] == [1, 2, 3]
    assert [(entry["release"], entry["state"]) for entry in result["campaigns"]] == [
        (1, "COMPLETED"),
        (2, "PAUSED"),
        (3, "COMPLETED"),
    ]
    check_windows(stage, story)
