"""Board profiles: each file against the schema, the loader and what is known of the board."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict
from typing import Any

import jsonschema
import pytest

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import firmware_configs, load_profile, profile_names

BOARDS = {
    # name: machine, cores, least memory [MB] that the board is sold with
    "x86-gateway": ("x86_64", 2, 4096),
    "raspberry-pi-5": ("aarch64", 4, 1024),
    "raspberry-pi-4": ("aarch64", 4, 1024),
    "raspberry-pi-3": ("armv7l", 4, 1024),
    "jetson-orin-nano": ("aarch64", 6, 4096),
    "imx8m-plus": ("aarch64", 2, 1024),
    "beaglebone-ai-64": ("aarch64", 2, 4096),
    "revpi-connect": ("aarch64", 4, 1024),
}


def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((firmware_configs() / "profile.schema.json").read_text(encoding="utf-8"))
    return schema


def _table(name: str) -> dict[str, Any]:
    return tomllib.loads((firmware_configs() / "profiles" / f"{name}.toml").read_text(encoding="utf-8"))


def test_every_board_has_a_profile_and_every_profile_a_board() -> None:
    assert profile_names() == sorted(BOARDS)


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_a_profile_keeps_the_schema_and_suits_its_board(name: str) -> None:
    jsonschema.validate(_table(name), _schema())
    profile = load_profile(name)
    machine, cores, memory_mb = BOARDS[name]
    assert profile.name == name
    assert profile.arch == (machine,)
    assert profile.threads <= cores
    assert profile.cpu_quota_percent <= 100 * cores
    assert profile.memory_cap_mb <= memory_mb // 2
    assert profile.max_model_mb <= profile.memory_cap_mb // 16
    assert set(asdict(profile)) == set(_schema()["properties"])
    # There is always a way on the CPU, in each runtime that is named.
    ways = {"onnxruntime": "CPUExecutionProvider", "ai-edge-litert": "XNNPACK", "tflite-runtime": "XNNPACK"}
    assert {ways[runtime] for runtime in profile.runtimes} <= set(profile.providers)
    assert all(entry.startswith(("/dev/", "can")) for entry in profile.buses)


def test_32_bit_arm_names_only_what_exists_there() -> None:
    assert load_profile("raspberry-pi-3").runtimes == ("tflite-runtime",)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("runtimes", []),
        ("runtimes", ["onnx"]),
        ("providers", ["delegate:relative.so"]),
        ("providers", ["cpu"]),
        ("buses", ["/dev/../etc/shadow"]),
        ("buses", ["/etc/shadow"]),
        ("buses", ["/dev/i2c-1\nDeviceAllow=block-*"]),
        ("watchdog_device", "/dev/sda"),
        ("memory_cap_mb", 1),
        ("max_model_mb", 0),
        ("max_window_ms", 0),
        ("arch", ["riscv64"]),
        ("cheese", 1),
    ],
)
def test_the_schema_refuses(key: str, value: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(_table("x86-gateway") | {key: value}, _schema())


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(AgentError, match="raspberry-pi-3") as refused:
        load_profile("raspberry-pi-9")
    assert refused.value.code == "config.profile"
