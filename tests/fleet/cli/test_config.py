"""The service's configuration file."""

from __future__ import annotations

from pathlib import Path

import pytest

from wheeltapper_fleet.config import FleetConfig, load_config
from wheeltapper_fleet.ground.errors import FleetError


def test_options_override_the_file(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text('data_dir = "d"\nadmin_port = 0\npublic_hosts = ["fleet.example.org"]\n')
    config = load_config(tmp_path / "fleet.toml", {"admin_port": 9000, "mqtt_port": None})
    assert (config.data_dir, config.admin_port, config.mqtt_port) == (Path("d"), 9000, 8883)
    assert config.public_hosts == ("fleet.example.org",)
    assert load_config(None) == FleetConfig()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("admin_prot = 1", "config.unknown_key"),
        ('admin_port = "1"', "config.invalid"),
        ("admin_port = true", "config.invalid"),
        ("admin_port = 70000", "config.invalid"),
        ("public_hosts = []", "config.invalid"),
        ('public_hosts = "x"', "config.invalid"),
        ("data_dir = 3", "config.invalid"),
        ('admin_host = "0.0.0.0"', "config.admin_insecure"),
        ('admin_host = "fleet.example.org"', "config.admin_insecure"),
        ('admin_tls_key = "k"', "config.invalid"),
        ("= nonsense", "config.unreadable"),
    ],
)
def test_invalid_settings_are_refused(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "fleet.toml").write_text(text)
    with pytest.raises(FleetError) as caught:
        load_config(tmp_path / "fleet.toml")
    assert caught.value.code == code


def test_the_admin_api_may_leave_loopback_with_tls(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text('admin_host = "0.0.0.0"\nadmin_tls_certificate = "c"\nadmin_tls_key = "k"\n')
    assert load_config(tmp_path / "fleet.toml").admin_tls_key == Path("k")
