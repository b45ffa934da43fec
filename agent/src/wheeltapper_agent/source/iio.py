"""The kind ``iio``: a sensor of Linux's Industrial I/O subsystem, read through its buffer.

The reader enables the channels of the configuration, and the time stamp if the device has one, starts the buffer and
reads scans from the character device. Physical value = (raw + offset) * scale, with the device's own ``_scale`` and
``_offset`` unless the configuration gives others, at whatever level they are shared
(:mod:`wheeltapper_agent.source.iio_names`). ``_calibscale`` and ``_calibbias`` are in the raw value already: the
hardware applies them. The units are those of the kernel's ABI (m/s² for ``in_accel``, rad/s for ``in_anglvel``, mV for
``in_voltage``).

Invariants:
    * Nothing is written to the device but ``scan_elements/*_en``, ``buffer/*``, the sampling frequency (if
      ``set_rate``) and the clock of its time stamps.
    * It is written only while this reader has the device open. The kernel lets one program at a time open it
      (``EBUSY``), so no other program's reading is disturbed.
    * The buffer is switched off at the end.
    * A device with another rate than the configured one is refused: a model would see every frequency shifted. What
      counts is the rate that is read back, whether it was written or not.
    * A channel without a scale is refused: its numbers would be taken for physical values.

What this module does not do: choose triggers; read several buffers of one device; read hardware without a buffer.

Source: the kernel's Documentation/ABI/testing/sysfs-bus-iio.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import select
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np

from wheeltapper_agent.ground.bounds import Bounds
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.source.base import SourceContext, SourceKind
from wheeltapper_agent.source.iio_format import Element, ScanLayout, parse_type
from wheeltapper_agent.source.iio_names import attribute_files, offered_text, parse_number
from wheeltapper_agent.source.stream import Sink, StreamSource
from wheeltapper_agent.source.stream_config import StreamConfig

__all__ = ["KIND", "IioConfig", "IioReader"]

_LOG = logging.getLogger(__name__)
_WAIT_MS: Final = 200
_MAX_READ_BYTES: Final = 256 * 1024
_MAX_TEXT_BYTES: Final = 4096
_TIMESTAMP: Final = "in_timestamp"
_RATE_SHARE: Final = 0.01
"""How far the device's rate may be from the configured one, as a share."""
_EXACT_SHARE: Final = 1e-6
"""A rate that is so near need not be written."""
_HANG_UP: Final = select.POLLHUP | select.POLLERR | select.POLLNVAL


@dataclass(frozen=True, slots=True, kw_only=True)
class IioConfig(StreamConfig):
    """A device and its channels, named like its scan elements: ``in_accel_x``, ``in_voltage0``."""

    kind: Literal["iio"] = "iio"
    device: str
    """``iio:device0``, or the name in its file ``name``, such as ``adxl355``."""
    buffer_samples: Annotated[int, Bounds(0, 2**20, "samples")] = 0
    """Length of the kernel's buffer; 0: two windows."""
    set_rate: bool = True
    """Whether ``sampling_frequency`` is written before it is read back and checked."""
    clock: Literal["realtime", "monotonic", "boottime", "tai", ""] = "realtime"
    """Clock of the device's time stamps; empty: leave it as it is."""
    sysfs: Path = Path("/sys/bus/iio/devices")
    dev: Path = Path("/dev")

    def __post_init__(self) -> None:
        StreamConfig.__post_init__(self)
        if any("/" in name or name.startswith(".") for name in (self.device, *self.channels)) or not self.device:
            raise AgentError("config.invalid", "device and channels must be names, not paths")


@dataclass(frozen=True, slots=True)
class _Channel:
    """An enabled scan element: its place in the scan, and how its number becomes a physical value."""

    index: int
    element: Element
    scale: float
    offset: float


class IioReader:
    """Reads one device. The buffer is on during a call of :meth:`read`."""

    def __init__(self, config: IioConfig) -> None:
        self._config = config
        self._rate_known = False

    def read(self, sink: Sink) -> None:
        """Implements :meth:`Reader.read <wheeltapper_agent.source.stream.Reader.read>`."""
        folder = self._folder()
        path = self._config.dev / folder.name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise AgentError("source.unreachable", f"{path} cannot be opened: {error.strerror}") from error
        try:
            _write(folder / "buffer" / "enable", "0")
            self._set_rate(folder)
            channels, timestamp = self._enable(folder)
            length = self._config.buffer_samples or 2 * self._config.window_samples
            _write(folder / "buffer" / "length", str(length))
            self._start(folder)
            sink.connected()
            self._warn(folder, channels, timestamp, sink)
            self._read_scans(descriptor, channels, timestamp, sink)
        finally:
            os.close(descriptor)
            with contextlib.suppress(AgentError):  # the device may have been removed
                _write(folder / "buffer" / "enable", "0")

    def _folder(self) -> Path:
        """Return the device's folder in sysfs, found by its number or its name."""
        config = self._config
        if (config.sysfs / config.device).is_dir():
            return config.sysfs / config.device
        with contextlib.suppress(OSError):
            for folder in sorted(config.sysfs.glob("iio:device*")):
                if _read(folder / "name", "") == config.device:
                    return folder
        raise AgentError("source.unreachable", f"there is no IIO device {config.device!r} in {config.sysfs}")

    def _set_rate(self, folder: Path) -> None:
        """Write the sampling frequencies of the channels, read them back, and refuse the device if one differs."""
        wanted_hz = self._config.sample_rate_hz
        files = self._rate_files(folder)
        self._rate_known = bool(files) or self._check_trigger(folder)
        for path in files:
            available = _read(folder / f"{path.name}_available", "")
            found_hz = _float(path)
            failure = ""
            if self._config.set_rate and not math.isclose(found_hz, wanted_hz, rel_tol=_EXACT_SHARE):
                text = offered_text(wanted_hz, available, _RATE_SHARE)
                try:
                    if text:
                        _write(path, text)
                except AgentError as error:
                    failure = f" ({error.message})"
                found_hz = _float(path)
            if not abs(found_hz - wanted_hz) <= _RATE_SHARE * wanted_hz:
                raise AgentError(
                    "source.mismatch",
                    f"{path} is {found_hz:g} Hz, not {wanted_hz:g}; it offers {available or 'no list'}{failure}",
                )
            if found_hz != wanted_hz:
                _LOG.info("%s is %.9g Hz, near enough to %.9g", path, found_hz, wanted_hz)

    def _rate_files(self, folder: Path) -> list[Path]:
        """Return the files with the sampling frequencies of the channels."""
        found: dict[Path, None] = {}
        for channel in self._config.channels:
            names = attribute_files(channel, "sampling_frequency")
            if path := next((folder / name for name in names if (folder / name).is_file()), None):
                found[path] = None
        return list(found)

    def _check_trigger(self, folder: Path) -> bool:
        """Refuse a device whose trigger has another rate; return whether the trigger has one.

        It is not written: other devices may share the trigger.
        """
        name = _read(folder / "trigger" / "current_trigger", "")
        folders = sorted(self._config.sysfs.glob("trigger*")) if name else []
        trigger = next((each for each in folders if _read(each / "name", "") == name), None)
        path = None if trigger is None else trigger / "sampling_frequency"
        if path is None or not path.is_file():
            return False
        found_hz, wanted_hz = _float(path), self._config.sample_rate_hz
        if not abs(found_hz - wanted_hz) <= _RATE_SHARE * wanted_hz:
            raise AgentError(
                "source.mismatch",
                f"the trigger {name} fires at {found_hz:g} Hz, not {wanted_hz:g}; write the rate to {path}",
            )
        return True

    def _start(self, folder: Path) -> None:
        """Switch the buffer on."""
        try:
            _write(folder / "buffer" / "enable", "1")
        except AgentError as error:
            trigger = folder / "trigger" / "current_trigger"
            if trigger.is_file() and not _read(trigger, ""):
                raise AgentError(
                    "source.refused", f"{folder.name} has no trigger; write the name of one to {trigger}"
                ) from error
            raise

    def _warn(self, folder: Path, channels: list[_Channel], timestamp: _Channel | None, sink: Sink) -> None:
        """Say once what cannot be known or is not read."""
        if timestamp is None and not self._rate_known:
            sink.warn(f"neither {folder.name} nor a trigger says its rate or gives time stamps: it cannot be checked")
        for name, channel in zip(self._config.channels, channels, strict=True):
            if channel.element.repeat > 1:
                sink.warn(f"{name} holds {channel.element.repeat} numbers, of which the first is read")

    def _enable(self, folder: Path) -> tuple[list[_Channel], _Channel | None]:
        """Switch the configured scan elements and the time stamp on, and all others off; return the channels and the
        time stamp."""
        elements = folder / "scan_elements"
        wanted = set(self._config.channels)
        present = {path.name.removesuffix("_en") for path in elements.glob("*_en")}
        if missing := sorted(wanted - present):
            raise AgentError(
                "source.refused", f"{folder.name} has no channel {missing[0]}; it has {', '.join(sorted(present))}"
            )
        timed = _TIMESTAMP in present
        if timed and self._config.clock and (folder / "current_timestamp_clock").is_file():
            _write(folder / "current_timestamp_clock", self._config.clock)
        for name in sorted(present):
            _write(elements / f"{name}_en", "1" if name in wanted or name == _TIMESTAMP else "0")
        if off := [name for name in self._config.channels if _read(elements / f"{name}_en") != "1"]:
            raise AgentError("source.refused", f"{folder.name} does not switch {off[0]} on")
        channels = [self._channel(folder, name, at) for at, name in enumerate(self._config.channels)]
        return channels, self._channel(folder, _TIMESTAMP, -1) if timed else None

    def _channel(self, folder: Path, name: str, at: int) -> _Channel:
        """Return the scan element ``name``. ``at`` is its place in the configuration; -1: the time stamp."""
        elements, config = folder / "scan_elements", self._config
        try:
            element = parse_type(_read(elements / f"{name}_type"))
        except ValueError as error:
            raise AgentError("source.refused", f"{folder.name}: {name}: {error}") from error
        index = int(_float(elements / f"{name}_index"))
        if at < 0:
            return _Channel(index, element, 1.0, 0.0)
        scale = config.scale[at] if config.scale else _attribute(folder, name, "scale")
        offset = config.offset[at] if config.offset else _attribute(folder, name, "offset")
        if not scale:
            looked = ", ".join(attribute_files(name, "scale"))
            why = "has no scale" if scale is None else "has the scale 0"
            raise AgentError(
                "source.refused", f"{folder.name}: {name} {why} (looked for {looked}); set scale in the configuration"
            )
        return _Channel(index, element, scale, offset or 0.0)

    def _read_scans(self, descriptor: int, channels: list[_Channel], timestamp: _Channel | None, sink: Sink) -> None:
        """Read scans and push them into ``sink`` until it is closed or the device is gone."""
        ordered = sorted([*channels, *([timestamp] if timestamp else [])], key=lambda channel: channel.index)
        layout = ScanLayout([channel.element for channel in ordered])
        size = max(1, _MAX_READ_BYTES // layout.scan_bytes) * layout.scan_bytes
        if not self._config.full_scale and not any(entry.element.floating for entry in channels):
            sink.full_scale = tuple(_full_scale(entry) for entry in channels)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        rest = b""
        while not sink.closed.is_set():
            ready = poll.poll(_WAIT_MS)
            if not ready:
                continue
            content = self._read(descriptor, size, bool(ready[0][1] & _HANG_UP))
            content, rest = rest + content, b""
            if odd := len(content) % layout.scan_bytes:
                content, rest = content[:-odd], content[-odd:]
            if not content:
                continue
            numbers = layout.decode(content)
            physical = np.stack(
                [(numbers[ordered.index(entry)] + entry.offset) * entry.scale for entry in channels], axis=1
            )
            if timestamp is None:
                sink.push_physical(physical)
            else:
                sink.push_physical(physical, numbers[ordered.index(timestamp)] * 1e-9)

    def _read(self, descriptor: int, size: int, gone: bool) -> bytes:
        """Return what the buffer holds, at most ``size`` bytes; raise ``source.unreachable`` if the device is
        ``gone``."""
        try:
            content = os.read(descriptor, size)
        except BlockingIOError:
            content = b""
            if not gone:
                return content
        except OSError as error:
            raise AgentError("source.unreachable", f"{self._config.device} was removed: {error.strerror}") from error
        if not content:
            raise AgentError("source.unreachable", f"{self._config.device} was removed: its buffer ended")
        return content


def _full_scale(channel: _Channel) -> float:
    """Return the largest absolute physical value that a channel can give.

    It is the smaller one at the two ends of the channel's bits, unless that end is near 0 (unsigned bits, or a large
    offset).
    """
    smaller, larger = sorted(abs((number + channel.offset) * channel.scale) for number in channel.element.limits)
    return smaller if smaller > larger / 2 else larger


def _attribute(folder: Path, name: str, what: str) -> float | None:
    """Return an attribute of a channel, from the channel's own file or the one that it shares; None: there is none."""
    path = next((folder / file for file in attribute_files(name, what) if (folder / file).is_file()), None)
    if path is None:
        return None
    found = _float(path)
    if not math.isfinite(found):
        raise AgentError("source.refused", f"{path} holds {found}, not a number")
    return found


def _read(path: Path, default: str | None = None) -> str:
    """Return the text in a sysfs file; ``default`` if it cannot be read."""
    try:
        with path.open("rb") as handle:
            return handle.read(_MAX_TEXT_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        if default is not None:
            return default
        raise AgentError("source.unreachable", f"{path} cannot be read: {error.strerror}") from error


def _float(path: Path) -> float:
    """Return the number in a sysfs file."""
    text = _read(path)
    try:
        return math.nan if text.lower() == "nan" else parse_number(text)
    except ValueError as error:
        raise AgentError("source.refused", f"{path} holds {text[:40]!r}, not a number") from error


def _write(path: Path, text: str) -> None:
    """Write ``text`` to a sysfs file."""
    try:
        path.write_text(text, encoding="ascii")
    except OSError as error:
        refused = isinstance(error, PermissionError) or error.errno == errno.EINVAL
        hint = "; check that the agent's user may write there" if isinstance(error, PermissionError) else ""
        raise AgentError(
            "source.refused" if refused else "source.unreachable",
            f"{path} does not take {text}: {error.strerror}{hint}",
        ) from error


def _make(config: IioConfig, context: SourceContext) -> StreamSource:
    """Return the source that a configuration describes; ``make`` of :data:`KIND`."""
    return StreamSource(IioReader(config), config, context.clock, context.pipeline)


KIND = SourceKind(IioConfig, _make, exclusive_by="device")
