"""A device of Linux's IIO: the layout of its scans, and a fake sysfs tree whose character device is a FIFO."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.servers import until
from tests.agent.source.rig import concatenated, open_source, running
from wheeltapper_agent.config import load_config
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source import iio
from wheeltapper_agent.source.base import source_faults
from wheeltapper_agent.source.iio_format import Element, ScanLayout, parse_type
from wheeltapper_agent.source.iio_names import attribute_files, offered_text

BEGAN_NS = 1_700_000_000_000_000_000


class Device:
    """``iio:device0``: three axes of 12 bits shifted by 4, a temperature, and a time stamp."""

    def __init__(self, folder: Path) -> None:
        self.sysfs, self.dev = folder / "sysfs", folder / "dev"
        self.folder = self.sysfs / "iio:device0"
        self._writer = -1
        for path in (self.folder / "scan_elements", self.folder / "buffer", self.dev):
            path.mkdir(parents=True)
        types = {"in_accel_x": "le:s12/16>>4", "in_accel_y": "le:s12/16>>4", "in_accel_z": "be:u12/16>>0"}
        types |= {"in_temp": "le:s32/32>>0", "in_timestamp": "le:s64/64>>0"}
        for index, (name, kind) in enumerate(types.items()):
            for key, text in (("en", "0"), ("type", kind), ("index", str(index))):
                (self.folder / "scan_elements" / f"{name}_{key}").write_text(f"{text}\n")
        texts = {
            "name": "fake355",
            "sampling_frequency": "100.000000",
            "in_accel_scale": "0.5",
            "in_accel_x_offset": "2",
        }
        texts |= {"current_timestamp_clock": "monotonic", "buffer/enable": "1", "buffer/length": "2"}
        for name, text in texts.items():
            (self.folder / name).write_text(f"{text}\n")
        self.plug()

    def plug(self) -> None:
        os.mkfifo(self.dev / "iio:device0")

    def unplug(self) -> None:
        """The node goes away, and whoever reads it hears so."""
        (self.dev / "iio:device0").unlink()
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def read(self, name: str) -> str:
        return (self.folder / name).read_text().strip()

    def give(self, content: bytes) -> None:
        if self._writer < 0:
            until(lambda: self.read("buffer/enable") == "1", 10, "the buffer")
            self._writer = os.open(self.dev / "iio:device0", os.O_WRONLY)
        os.write(self._writer, content)


def _scan(x: int, z: int, index: int, timed: bool = True) -> bytes:
    """x and z are on, y and the temperature are off; the time stamp is aligned to 8 bytes."""
    head = struct.pack("<h", x << 4) + struct.pack(">H", z)
    return head + (b"\0" * 4 + struct.pack("<q", BEGAN_NS + index * 10_000_000) if timed else b"")


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def _source(device: Device, more: str = "") -> str:
    return (
        f"kind = 'iio'\ndevice = 'fake355'\nsysfs = '{device.sysfs}'\ndev = '{device.dev}'\nsample_rate_hz = 100\n"
        f"window_samples = 5\nchannels = ['in_accel_z', 'in_accel_x']\n"
        f"retry_first_seconds = 0.05\nretry_max_seconds = 0.2\n{more}"
    )


def test_scans_become_windows(tmp_path: Path, device: Device) -> None:
    with running(tmp_path, _source(device)) as taken:
        content = b"".join(_scan(-2048 + k, 4095 - k, k) for k in range(12))
        for at in range(0, len(content), 7):  # a FIFO may give half a scan
            device.give(content[at : at + 7])
        found = taken.until(2)
        expected = np.array([[(4095 - k) / 2, (-2048 + k + 2) / 2] for k in range(10)], np.float32)
        np.testing.assert_array_equal(concatenated(found), expected)
        assert [window.t_s for window in found] == pytest.approx([1.7e9, 1.7e9 + 0.05])
        assert taken.source.spec.full_scale == (4095 / 2, (2048 - 2) / 2)
        switches = {path.name: path.read_text() for path in (device.folder / "scan_elements").glob("*_en")}
        on = {name for name, text in switches.items() if text.strip() == "1"}
        assert on == {"in_accel_x_en", "in_accel_z_en", "in_timestamp_en"}
        assert device.read("current_timestamp_clock") == "realtime"
        assert device.read("buffer/length") == "10"
    assert device.read("buffer/enable") == "0"


def test_lost_scans_are_missing_samples(tmp_path: Path, device: Device) -> None:
    with running(tmp_path, _source(device)) as taken:
        device.give(b"".join(_scan(k, k, k) for k in range(15) if k not in (3, 4)))
        found = concatenated(taken.until(2))[:, 0]
        assert np.flatnonzero(np.isnan(found)).tolist() == [3, 4]
        assert found[5] == 2.5


def test_a_device_that_is_pulled_out_and_plugged_in(tmp_path: Path, device: Device) -> None:
    with running(tmp_path, _source(device)) as taken:
        device.give(b"".join(_scan(k, k, k) for k in range(5)))
        taken.until(1)
        device.unplug()
        taken.until_state("source.unreachable")
        device.plug()
        taken.until_state("waiting")
        device.give(b"".join(_scan(k, k, k) for k in range(500, 505)))
        after = taken.until(2)[1]
        assert after.gap_samples == 495
        assert taken.source.state == "running"


def test_a_device_without_time_stamps(tmp_path: Path, device: Device) -> None:
    for path in (device.folder / "scan_elements").glob("in_timestamp_*"):
        path.unlink()
    with running(
        tmp_path, _source(device, "scale = [1.0, 2.0]\noffset = [0.0, -1.0]\nfull_scale = [9.0, 9.0]")
    ) as taken:
        device.give(b"".join(_scan(k, k, k, timed=False) for k in range(5)))
        np.testing.assert_array_equal(concatenated(taken.until(1)), [[k, (k - 1) * 2] for k in range(5)])
        assert taken.source.spec.full_scale == (9.0, 9.0)


def test_the_rate_is_set_or_refused(tmp_path: Path, device: Device) -> None:
    with running(tmp_path, _source(device).replace("rate_hz = 100", "rate_hz = 250")) as taken:
        until(lambda: device.read("sampling_frequency") == "250", 10, "the rate")
    (device.folder / "sampling_frequency").write_text("100")
    with running(tmp_path, _source(device, "set_rate = false").replace("rate_hz = 100", "rate_hz = 250")) as taken:
        taken.until_state("source.mismatch")


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("scan_elements/in_accel_x_type", "le:s12", "source.refused"),
        ("scan_elements/in_accel_x_type", "le:s17/16>>0", "source.refused"),
        ("scan_elements/in_accel_x_index", "cheese", "source.refused"),
        ("in_accel_scale", "", "source.refused"),
        ("sampling_frequency", "nan", "source.mismatch"),
        ("name", "other", "source.unreachable"),
    ],
)
def test_a_strange_device_has_a_code(tmp_path: Path, device: Device, name: str, text: str, code: str) -> None:
    (device.folder / name).write_text(text)
    with running(tmp_path, _source(device, "set_rate = false")) as taken:
        taken.until_state(code)
    with running(tmp_path, _source(device, "set_rate = false").replace("accel_z", "accel_q")) as taken:
        taken.until_state("source.unreachable" if name == "name" else "source.refused", "source.mismatch")


@pytest.mark.parametrize("more", ["device = '../x'", "channels = ['a/b']", "buffer_samples = -1", "clock = 'sun'"])
def test_impossible_configurations(tmp_path: Path, more: str) -> None:
    good = {"device": "'x'", "channels": "['y']"}
    key = more.split(" ")[0]
    lines = [f"{name} = {value}" for name, value in good.items() if name != key]
    with pytest.raises(AgentError) as refused:
        open_source(tmp_path, "\n".join(["kind = 'iio'", "sample_rate_hz = 1", "window_samples = 1", *lines, more]))
    assert refused.value.code == "config.invalid"


@pytest.mark.parametrize(
    ("text", "element"),
    [
        ("le:s12/16>>4", Element(True, True, 12, 16, 4)),
        ("be:u24/32>>8\n", Element(False, False, 24, 32, 8)),
        ("le:s16/16X4>>0", Element(True, True, 16, 16, 0, 4)),
        ("le:s64/64", Element(True, True, 64, 64)),
        ("be:f32/32>>0", Element(False, True, 32, 32, floating=True)),
    ],
)
def test_types(text: str, element: Element) -> None:
    assert parse_type(text) == element


@pytest.mark.parametrize(
    "text",
    [
        "le:f12/16>>0",
        "le:f32/64>>0",
        "",
        "s12/16",
        "le:s0/16>>0",
        "le:s12/24>>0",
        "le:s12/16>>5",
        "le:s8/8X99>>0",
        "le:x8/8",
    ],
)
def test_types_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_type(text)


def test_layout_follows_the_kernel() -> None:
    # The kernel's own example: 3 x 16 bits and a 64 bit time stamp need two bytes of padding.
    layout = ScanLayout([parse_type("le:s16/16>>0")] * 3 + [parse_type("le:s64/64>>0")])
    assert (layout.offsets, layout.scan_bytes) == ([0, 2, 4, 8], 16)
    layout = ScanLayout([parse_type("le:u8/8>>0"), parse_type("be:s24/32>>8"), parse_type("le:u8/8>>0")])
    assert (layout.offsets, layout.scan_bytes) == ([0, 4, 8], 12)


@given(
    st.booleans(),
    st.booleans(),
    st.sampled_from([8, 16, 32, 64]),
    st.integers(1, 64),
    st.integers(0, 63),
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8),
)
def test_numbers_agree_with_plain_integers(
    little: bool, signed: bool, storage: int, bits: int, shift: int, words: list[int]
) -> None:
    bits = min(bits, storage)
    element = Element(little, signed, bits, storage, min(shift, storage - bits))
    words = [word % 2**storage for word in words]
    content = b"".join(word.to_bytes(storage // 8, "little" if little else "big") for word in words)
    expected = []
    for word in words:
        value = (word >> element.shift) % 2**bits
        expected.append(value - 2**bits if signed and value >= 2 ** (bits - 1) else value)
    assert ScanLayout([element]).decode(content)[0].tolist() == expected


def test_a_device_that_cannot_be_opened_is_left_as_it_is(tmp_path: Path, device: Device) -> None:
    device.unplug()
    (device.folder / "scan_elements/in_accel_y_en").write_text("1")
    before = {path: path.read_text() for path in device.folder.rglob("*") if path.is_file()}
    with running(tmp_path, _source(device)) as taken:
        taken.until_state("source.unreachable")
    assert {path: path.read_text() for path in device.folder.rglob("*") if path.is_file()} == before


def test_two_pipelines_cannot_have_one_device(tmp_path: Path) -> None:
    one = '[[pipelines]]\nname = "{}"\n[pipelines.source]\nkind = "iio"\ndevice = "{}"\nsample_rate_hz = 1\n'
    text = '[device]\nstate_dir = "state"\n' + "window_samples = 4\n".join(
        [one.format("a", "adxl355"), one.format("b", "adxl357"), one.format("c", "adxl355"), ""]
    )
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(AgentError) as refused:
        load_config(tmp_path / "a.toml")
    assert refused.value.code == "config.invalid"
    assert "device = 'adxl355'" in refused.value.message
    (tmp_path / "a.toml").write_text(
        text.replace(
            '"c"\n[pipelines.source]\nkind = "iio"\ndevice = "adxl355"',
            '"c"\n[pipelines.source]\nkind = "iio"\ndevice = "bme280"',
        )
    )
    assert len(load_config(tmp_path / "a.toml").pipelines) == 3


@pytest.mark.parametrize("stem", ["in_accel_x_", "in_accel_", "in_", ""])
@pytest.mark.parametrize("what", ["scale", "offset"])
def test_an_attribute_is_found_where_it_is_shared(tmp_path: Path, device: Device, stem: str, what: str) -> None:
    for old in ("in_accel_scale", "in_accel_x_offset"):
        (device.folder / old).unlink()
    (device.folder / "in_accel_z_scale").write_text("1.0\n")
    (device.folder / f"{stem}scale").write_text("0.00059855012345678901234567890\n")
    if what == "offset":
        (device.folder / f"{stem}offset").write_text("-3\n")
    with running(tmp_path, _source(device)) as taken:
        device.give(b"".join(_scan(k, k, k) for k in range(5)))
        found = concatenated(taken.until(1))[:, 1]
    moved = np.arange(5) - (3 if what == "offset" else 0)
    np.testing.assert_allclose(found, moved * 0.000598550123456789, rtol=1e-6)


def test_a_nearer_attribute_wins(tmp_path: Path, device: Device) -> None:
    for number, name in enumerate(("in_accel_x_scale", "in_accel_scale", "in_scale", "scale"), 1):
        (device.folder / name).write_text(f"{number}\n")
    with running(tmp_path, _source(device)) as taken:
        device.give(b"".join(_scan(1, 1, k) for k in range(5)))
        np.testing.assert_array_equal(concatenated(taken.until(1))[0], [2, 3])  # (1 + its offset of 2) * 1


@pytest.mark.parametrize(
    ("channel", "files"),
    [
        ("in_accel_x", ["in_accel_x_scale", "in_accel_scale", "in_scale", "scale"]),
        ("in_accel0_x", ["in_accel0_x_scale", "in_accel_scale", "in_scale", "scale"]),
        ("in_voltage10", ["in_voltage10_scale", "in_voltage_scale", "in_scale", "scale"]),
        ("in_voltage3_supply", ["in_voltage3_supply_scale", "in_voltage_scale", "in_scale", "scale"]),
        ("in_temp", ["in_temp_scale", "in_scale", "scale"]),
        ("in_temp_ambient", ["in_temp_ambient_scale", "in_temp_scale", "in_scale", "scale"]),
        (
            "in_voltage0-voltage1",
            ["in_voltage0-voltage1_scale", "in_voltage-voltage_scale", "in_voltage_scale", "in_scale", "scale"],
        ),
        (
            "in_rot_from_north_true_tilt_comp",
            ["in_rot_from_north_true_tilt_comp_scale", "in_rot_scale", "in_scale", "scale"],
        ),
        ("out_voltage0", ["out_voltage0_scale", "out_voltage_scale", "out_scale", "scale"]),
    ],
)
def test_names_of_attributes(channel: str, files: list[str]) -> None:
    assert attribute_files(channel, "scale") == files


@pytest.mark.parametrize("text", [None, "0.000000", "nan", "1.5 dB", "1_0", "0x10"])
def test_a_channel_without_a_scale_is_refused(tmp_path: Path, device: Device, text: str | None) -> None:
    path = device.folder / "in_accel_scale"
    path.unlink() if text is None else path.write_text(text)
    with running(tmp_path, _source(device)) as taken:
        taken.until_state("source.refused")
    with running(tmp_path, _source(device, "scale = [1.0, 1.0]")) as taken:
        taken.until_state("waiting", "running")
        until(lambda: device.read("buffer/enable") == "1", 10, "the buffer")


@pytest.mark.parametrize(
    ("hz", "text"), [(1e6, "1000000"), (1e7, "10000000"), (12.5, "12.5"), (208.3333333, "208.333333"), (0.5, "0.5")]
)
def test_a_rate_is_written_as_the_kernel_reads_it(tmp_path: Path, device: Device, hz: float, text: str) -> None:
    with running(tmp_path, _source(device).replace("rate_hz = 100", f"rate_hz = {hz}")):
        until(lambda: device.read("sampling_frequency") == text, 10, "the rate")


@pytest.mark.parametrize("name", ["in_accel_x_", "in_accel_", "in_", ""])
def test_the_rate_has_its_level_too(tmp_path: Path, device: Device, name: str) -> None:
    (device.folder / "sampling_frequency").unlink()
    (device.folder / f"{name}sampling_frequency").write_text("50\n")
    with running(tmp_path, _source(device, "set_rate = false")) as taken:
        taken.until_state("source.mismatch")
    with running(tmp_path, _source(device)):
        until(lambda: device.read(f"{name}sampling_frequency") == "100", 10, "the rate")


@pytest.mark.parametrize(
    ("hz", "available", "written"),
    [
        (100, "25.000000 99.875000 200.000000", "99.875000"),
        (100, "25 50 200", ""),
        (100, "[1 1 1000]", "100"),
        (100, "[1 1 50]", ""),
        (1000.5, "[1 1 1000]", "1000"),
        (100, "", "100"),
        (0.1, "0.098 0.1", "0.1"),
    ],
)
def test_an_offer_of_the_driver_is_taken_as_it_stands(hz: float, available: str, written: str) -> None:
    assert offered_text(hz, available, 0.01) == written


def test_a_rate_that_the_device_does_not_offer_is_not_written(tmp_path: Path, device: Device) -> None:
    (device.folder / "sampling_frequency").write_text("50")
    (device.folder / "sampling_frequency_available").write_text("25 50 200\n")
    with running(tmp_path, _source(device)) as taken:
        taken.until_state("source.mismatch")
        assert "it offers 25 50 200" in source_faults(taken.source)[0].text
    assert device.read("sampling_frequency") == "50"


def test_a_rate_that_the_driver_keeps_to_itself(tmp_path: Path, device: Device) -> None:
    """Each type of channel has its own rate; both are judged."""
    (device.folder / "sampling_frequency").unlink()
    (device.folder / "in_accel_z_sampling_frequency").write_text("100.2")
    (device.folder / "in_accel_x_sampling_frequency").write_text("12.5")
    with running(tmp_path, _source(device, "set_rate = false")) as taken:
        taken.until_state("source.mismatch")
        assert "in_accel_x_sampling_frequency is 12.5 Hz" in source_faults(taken.source)[0].text


def test_a_rate_that_nobody_knows_is_said(tmp_path: Path, device: Device) -> None:
    (device.folder / "sampling_frequency").unlink()
    for path in (device.folder / "scan_elements").glob("in_timestamp_*"):
        path.unlink()
    with running(tmp_path, _source(device)) as taken:
        until(lambda: any("cannot be checked" in fault.text for fault in source_faults(taken.source)), 10, "the word")


def test_differential_channels_and_floats(tmp_path: Path, device: Device) -> None:
    for path in [*(device.folder / "scan_elements").glob("in_*"), *device.folder.glob("in_*")]:
        path.unlink()
    types = {"in_voltage0-voltage1": "be:s24/32>>8", "in_pressure": "le:f32/32>>0", "in_timestamp": "le:s64/64>>0"}
    for index, (name, kind) in enumerate(types.items()):
        for key, text in (("en", "0"), ("type", kind), ("index", str(index))):
            (device.folder / "scan_elements" / f"{name}_{key}").write_text(f"{text}\n")
    (device.folder / "in_voltage-voltage_scale").write_text("0.5")
    (device.folder / "in_voltage_scale").write_text("9")
    (device.folder / "in_scale").write_text("2")
    source = _source(device).replace("['in_accel_z', 'in_accel_x']", "['in_voltage0-voltage1', 'in_pressure']")
    with running(tmp_path, source) as taken:
        for k in range(5):
            scan = struct.pack(">i", (-(2**23) + k) << 8) + struct.pack("<f", 0.25 * k)
            device.give(scan + struct.pack("<q", BEGAN_NS + k * 10_000_000))
        expected = [[(-(2**23) + k) * 0.5, 0.5 * k] for k in range(5)]
        np.testing.assert_array_equal(concatenated(taken.until(1)), np.array(expected, np.float32))
        assert taken.source.spec.full_scale == ()


def test_a_device_that_needs_a_trigger_says_so(tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    write = iio._write

    def refuse(path: Path, text: str) -> None:
        if path.name == "enable" and text == "1":
            raise AgentError("source.refused", "Invalid argument")  # as the kernel does without a trigger
        write(path, text)

    monkeypatch.setattr(iio, "_write", refuse)
    (device.folder / "trigger").mkdir()
    (device.folder / "trigger" / "current_trigger").write_text("\n")
    with running(tmp_path, _source(device)) as taken:
        taken.until_state("source.refused")
        assert "has no trigger" in source_faults(taken.source)[0].text


def test_the_rate_of_the_trigger_counts_where_the_device_has_none(tmp_path: Path, device: Device) -> None:
    (device.folder / "sampling_frequency").unlink()
    for path in (device.folder / "scan_elements").glob("in_timestamp_*"):
        path.unlink()
    (device.folder / "trigger").mkdir()
    (device.folder / "trigger" / "current_trigger").write_text("timer\n")
    trigger = device.sysfs / "trigger3"
    trigger.mkdir()
    (trigger / "name").write_text("timer\n")
    (trigger / "sampling_frequency").write_text("50.000\n")
    with running(tmp_path, _source(device)) as taken:
        taken.until_state("source.mismatch")
        assert "the trigger timer fires at 50 Hz" in source_faults(taken.source)[0].text
    (trigger / "sampling_frequency").write_text("100.000\n")
    with running(tmp_path, _source(device)) as taken:
        device.give(b"".join(_scan(k, k, k, timed=False) for k in range(5)))
        taken.until(1)
        assert not source_faults(taken.source)
    assert (trigger / "sampling_frequency").read_text() == "100.000\n"
