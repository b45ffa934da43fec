"""Every number of the configuration has bounds, and a value outside of them is refused with its unit."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from wheeltapper_agent.config import AgentConfig, load_config
from wheeltapper_agent.ground.bounds import Bounds
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.ground.toml import build
from wheeltapper_agent.source.kinds import BUILT_IN, source_kind


def _numbers(kind: type, where: str) -> Iterator[tuple[str, Any]]:
    """The name and the type of every number in a configuration class, also of those in tables and lists."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        yield from _of_hint(hint, f"{where}.{name}")


def _of_hint(hint: Any, where: str) -> Iterator[tuple[str, Any]]:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        if {int, float} & {arguments[0], *typing.get_args(arguments[0])}:
            yield where, hint
    elif hint in (int, float):
        yield where, hint
    elif dataclasses.is_dataclass(hint):
        yield from _numbers(typing.cast("type", hint), where)
    elif typing.get_origin(hint) is not Literal:
        for each in arguments:
            yield from _of_hint(each, where)


ROOTS: tuple[tuple[type, str], ...] = (
    (AgentConfig, "agent"),
    (Profile, "profile"),
    *((source_kind(kind).config, f"source.{kind}") for kind in sorted(BUILT_IN)),
)
NUMBERS = {where: hint for root, name in ROOTS for where, hint in _numbers(root, name)}


def _bounds(hint: Any) -> Bounds | None:
    return next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Bounds)), None)


def test_every_number_is_found() -> None:
    """The walk goes through tables, lists and optional values."""
    for name in ("agent.device.status_seconds", "agent.capture.rules.seed", "source.stdin.scale", "profile.threads"):
        assert name in NUMBERS
    assert len(NUMBERS) > 50


@pytest.mark.parametrize("where", sorted(NUMBERS))
def test_every_number_has_bounds(where: str) -> None:
    """Also that a number with a unit in its name says the unit to a person."""
    bounds = _bounds(NUMBERS[where])
    assert bounds is not None, "give it Bounds in its type"
    assert bounds.least <= bounds.most <= 2**63
    for ending, unit in (("_seconds", "seconds"), ("_mb", "MB"), ("_hz", "Hz"), ("_windows", "windows")):
        assert not where.endswith(ending) or bounds.unit == unit


@pytest.mark.parametrize("where", sorted(NUMBERS))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 10**400, True, "1", []])
def test_what_is_no_number_within_bounds_is_refused(where: str, value: Any) -> None:
    """Through the loader, which is what a user meets."""
    hint = NUMBERS[where]
    one = dataclasses.make_dataclass("One", [("key", hint)], frozen=True)
    with pytest.raises(AgentError) as refused:
        build(one, {"key": value}, "section", Path())
    assert refused.value.code == "config.invalid"
    assert "section.key" in refused.value.message
    assert len(refused.value.message) < 300


@pytest.mark.parametrize("where", sorted(NUMBERS))
def test_the_bounds_themselves_are_allowed(where: str) -> None:
    bounds = _bounds(NUMBERS[where])
    assert bounds is not None
    one = dataclasses.make_dataclass("One", [("key", NUMBERS[where])], frozen=True)
    whole = float not in (typing.get_args(NUMBERS[where])[0], *typing.get_args(typing.get_args(NUMBERS[where])[0]))
    for value in (bounds.least, bounds.most, *([0] if bounds.zero else [])):
        made: Any = build(one, {"key": int(value) if whole else value}, "section", Path())
        assert made.key == value
    if bounds.least > 0 and not bounds.zero:
        with pytest.raises(AgentError, match="cannot be 0"):
            build(one, {"key": 0}, "section", Path())
    with pytest.raises(AgentError):
        build(one, {"key": -1 if bounds.least == 0 else int(bounds.most) + 1}, "section", Path())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[device]\nstatus_seconds = 0", "device.status_seconds cannot be 0; set 0.1 to 86400 seconds"),
        ("[device]\nstatus_seconds = nan", "device.status_seconds cannot be nan; set 0.1 to 86400 seconds"),
        ("[delivery]\nresend_seconds = -5", "delivery.resend_seconds cannot be -5; set 0.1 to 3600 seconds"),
        ("[delivery]\nmax_in_flight = 0", "delivery.max_in_flight cannot be 0; set 1 to 1000000 records"),
        ("[delivery]\nmax_in_flight = 2.5", "delivery.max_in_flight cannot be 2.5; set a whole number, 1 to"),
        ("[update]\ncondition_seconds = 0", "update.condition_seconds cannot be 0; set 0.1 to 3600 seconds"),
        ("[update]\ndeadline_seconds = -1", "set 1 to 31622400 seconds, or 0 for no limit"),
        ("[capture]\npiece_kb = 1000000000", "capture.piece_kb cannot be 1000000000; set 1 to 65536 KB"),
        ("[delivery]\nbatch_seconds = 'soon'", "delivery.batch_seconds cannot be 'soon'; set a number, 0 to 3600"),
    ],
)
def test_the_message_names_key_value_bounds_and_unit(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text((text if "[device]" in text else f"[device]\n{text}").replace(
        "[device]", "[device]\nstate_dir = 'state'"
    ))  # fmt: skip
    with pytest.raises(AgentError) as refused:
        load_config(file)
    assert refused.value.code == "config.invalid"
    assert said in refused.value.message


@pytest.mark.parametrize("digits", ["9" * 5000, "0x" + "f" * 5000])
def test_a_number_with_too_many_digits_is_refused(tmp_path: Path, digits: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f"[device]\nstate_dir = 'state'\nstatus_seconds = {digits}\n")
    with pytest.raises(AgentError) as refused:
        load_config(file)
    assert refused.value.code in ("config.invalid", "config.malformed")
    assert len(refused.value.message.replace(str(file), "")) < 300


def test_a_plug_in_without_bounds_gets_no_infinity() -> None:
    one = dataclasses.make_dataclass("One", [("rate", float), ("count", int)], frozen=True)
    for table in (
        {"rate": float("inf"), "count": 1},
        {"rate": float("nan"), "count": 1},
        {"rate": 1.0, "count": 2**64},
    ):
        with pytest.raises(AgentError):
            build(one, table, "source", Path())


def test_a_configuration_whose_own_check_fails_is_refused() -> None:
    def check(self: Any) -> None:
        raise ZeroDivisionError(f"{self.rate}")

    one = dataclasses.make_dataclass("One", [("rate", float)], frozen=True, namespace={"__post_init__": check})
    with pytest.raises(AgentError) as refused:
        build(one, {"rate": 1.0}, "pipelines[0].source", Path())
    assert refused.value.code == "config.invalid"
    assert "pipelines[0].source: ZeroDivisionError: 1.0" in refused.value.message
    with pytest.raises(AgentError) as refused:
        build(one, {}, "pipelines[0].source", Path())
    assert refused.value.code == "config.missing_key"
