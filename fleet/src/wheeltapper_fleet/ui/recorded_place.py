"""Where a recording was made, and what is known of the bearing and the speed there.

The bearing is that of the point (or what it belongs to), else that of the release that scores the pipeline now. The
speed is the point's: fixed, a channel of the recording, or a tag of the device; else what the recording's meta says
(``rpm``), else the nominal one of the release.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np
from pydantic import ValidationError

from wheeltapper_fleet.assets.lookup import spans_by_source
from wheeltapper_fleet.assets.rules import ALL_CHANNELS, point_of
from wheeltapper_fleet.assets.schemas import AssetDetail, Bearing, SpeedSource
from wheeltapper_fleet.assets.views import get_asset
from wheeltapper_fleet.captures.schemas import CaptureView
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.views import get_device
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.registry.views import manifests_of
from wheeltapper_fleet.telemetry.views import latest_windows
from wheeltapper_fleet.ui.rendering import Page
from wheeltapper_protocols.decision.bearing import BearingSpec
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["Bearings", "bearings_of", "place_of"]

_HERTZ = ("Hz", "1/s", "rev/s")


@dataclass(frozen=True, kw_only=True)
class Bearings:
    """The bearing and the speed in turns a minute, each with where it is known from; None and empty: not known."""

    bearing: Bearing | None = None
    bearing_from: str = ""
    rpm: float | None = None
    rpm_from: str = ""


def place_of(page: Page, capture: CaptureView, channel: str) -> AssetDetail | None:
    """The point that a channel of a recording measures; None where none is mapped."""
    source = (capture.device, capture.pipeline)
    with reading(page.engine) as connection:
        spans = spans_by_source(connection, [source]).get(source, [])
    mine = [span for span in spans if span.channel in (channel, ALL_CHANNELS)]
    point = point_of(mine, capture.received_at or page.clock(), (), channel)
    try:
        return None if point is None else get_asset(page.engine, point)
    except FleetError:  # it was removed meanwhile
        return None


def bearings_of(page: Page, capture: CaptureView, recording: Recording, asset: AssetDetail | None) -> Bearings:
    """What is known of the bearing and the speed at a recording."""
    section = _of_release(page, capture)
    bearing, bearing_from = None, ""
    if asset is not None and asset.effective.bearing is not None:
        bearing, bearing_from = asset.effective.bearing, asset.id
    elif section is not None:
        bearing, bearing_from = _bearing(section), "the release"
    rpm, rpm_from = None, ""
    if asset is not None and asset.effective.speed is not None:
        rpm, rpm_from = _speed(page, asset.effective.speed, capture, recording)
    if rpm is None and (said := recording.meta.get("rpm")) is not None:
        rpm, rpm_from = _positive(said), "the recording"
    if rpm is None and section is not None:
        rpm, rpm_from = section.shaft_hz * 60, "the release"
    return Bearings(bearing=bearing, bearing_from=bearing_from, rpm=rpm, rpm_from=rpm_from if rpm is not None else "")


def _speed(page: Page, speed: SpeedSource, capture: CaptureView, recording: Recording) -> tuple[float | None, str]:
    if speed.kind == "fixed":
        return speed.rpm, "the point"
    if speed.kind == "channel" and speed.name in recording.channels:
        place = recording.channels.index(speed.name)
        values = recording.samples[:, :, place].astype(np.float64) * recording.scale[place]
        mean = float(np.mean(values[np.isfinite(values)])) if np.isfinite(values).any() else math.nan
        return _positive(mean * (60 if recording.units[place] in _HERTZ else 1)), f"the channel {speed.name}"
    if speed.kind == "tag":
        try:
            tags = get_device(page.engine, capture.device, page.clock()).tags
        except FleetError:
            return None, ""
        return _positive(tags.get(speed.name or "")), f"the tag {speed.name}"
    return None, ""


def _of_release(page: Page, capture: CaptureView) -> BearingSpec | None:
    """The section ``bearing`` of the release that scores the pipeline; None where there is none."""
    source = (capture.device, capture.pipeline)
    with reading(page.engine) as connection:
        newest = latest_windows(connection, [source]).get(source, {})
        key = (str(newest.get("model")), int(newest.get("release") or 0))
        manifest = manifests_of(connection, [key]).get(key, {})
    try:
        section = manifest.get("bearing")
        return None if section is None else msgspec.convert(section, BearingSpec)
    except (msgspec.ValidationError, ValueError):
        return None


def _bearing(section: BearingSpec) -> Bearing | None:
    found = section.geometry
    try:
        return Bearing(
            rolling_elements=found.elements,
            ball_diameter_mm=found.ball_mm,
            pitch_diameter_mm=found.pitch_mm,
            contact_angle_deg=found.contact_deg,
        )
    except ValidationError:
        return None


def _positive(value: object) -> float | None:
    """``value`` as a number above 0, also where it is a text; None for anything else."""
    try:
        number = float(value)  # type: ignore[arg-type]  # what is no number is refused below
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and 0 < number <= 1e7 else None
