"""The service's configuration file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wheeltapper_fleet.cli.app import app
from wheeltapper_fleet.config import FleetConfig, load_config, read_settings_of
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


def test_the_environment_goes_between_file_and_options_and_each_value_says_where_it_is_from(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text('data_dir = "d"\nadmin_port = 1\nmqtt_port = 2\ndevice_port = 3\n')
    environ = {"WHEELTAPPER_MQTT_PORT": "20", "WHEELTAPPER_DEVICE_PORT": "30", "WHEELTAPPER_PUBLIC_HOSTS": "a, b,"}
    settings = read_settings_of(file, {"device_port": 300, "role": None}, environ)
    config = settings.config
    assert (config.admin_port, config.mqtt_port, config.device_port) == (1, 20, 300)
    assert config.public_hosts == ("a", "b")
    names = ("admin_port", "mqtt_port", "device_port", "public_hosts", "role")
    assert [settings.origins[name] for name in names] == [
        str(file), "WHEELTAPPER_MQTT_PORT", "option", "WHEELTAPPER_PUBLIC_HOSTS", "default",
    ]  # fmt: skip
    assert set(settings.origins) == {item.name for item in dataclasses.fields(FleetConfig)}
    with pytest.raises(FleetError, match="WHEELTAPPER_MQTT_PORT must be a whole number"):
        load_config(file, None, {"WHEELTAPPER_MQTT_PORT": "many"})
    assert load_config(file, None, {"WHEELTAPPER_MQTT_PORT": ""}).mqtt_port == 2


def test_config_show_says_where_values_are_from_and_hides_passwords(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text('database_url = "postgresql://ann:hunter2@db/fleet"\n')
    secret = tmp_path / "secret"
    secret.write_text("hunter3")
    with (tmp_path / "fleet.toml").open("a") as file:
        file.write(f'[oidc]\nissuer = "https://id.example"\nclient_id = "x"\nclient_secret_file = "{secret}"\n')
        file.write('page_url = "https://fleet.example"\n[oidc.roles]\nadmins = "admin"\n')
    line = ["config", "show", "--config", str(tmp_path / "fleet.toml")]
    for more in ([], ["--json"], ["--changed"]):
        done = CliRunner().invoke(app, [*line, *more], env={"WHEELTAPPER_ADMIN_PORT": "9000"})
        assert done.exit_code == 0, done.output
        assert "hunter" not in done.output
        assert "WHEELTAPPER_ADMIN_PORT" in done.output
        assert "ann:***@db" in done.output
    assert "mqtt_port" not in done.output, "the default"
    wrong = CliRunner().invoke(app, line, env={"WHEELTAPPER_ADMIN_PORT": "x"})
    assert wrong.exit_code != 0
    assert "config.invalid" in wrong.output
