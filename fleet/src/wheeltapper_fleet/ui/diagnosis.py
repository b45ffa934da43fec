"""Diagnosis of a recording: waveform, spectrum, envelope spectrum with a bearing's fault lines as markers, listening,
a second recording beside it, and all recordings of the place as a waterfall.

Everything that a reader chooses is in the address. Cost: one recording is read (two, with one beside it), at most
64 MB each, of which 16 snapshots (2 million samples) are transformed; a waterfall opens 24 recordings at most, and what
it computed of one is kept. Two readers are served at once (:mod:`wheeltapper_fleet.captures.diagnosis`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from wheeltapper_fleet.assets.schemas import AssetDetail
from wheeltapper_fleet.captures import spectra
from wheeltapper_fleet.captures.diagnosis import at_work, one_snapshot, open_recording, some_snapshots, sound, waterfall
from wheeltapper_fleet.captures.schemas import CaptureView
from wheeltapper_fleet.captures.views import get_capture, list_captures
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ui import spectrum_chart as chart
from wheeltapper_fleet.ui.recorded_place import Bearings, bearings_of, place_of
from wheeltapper_fleet.ui.rendering import Asked, Page, Viewer, render, sign_in_form, viewer
from wheeltapper_fleet.ui.words import DEFECTS
from wheeltapper_protocols.signal.iso20816 import Iso20816, zone
from wheeltapper_protocols.signal.recording import Recording

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
RECORDINGS_LISTED: Final = 100
ROW_POINTS: Final = 250
_SOURCES_READ: Final = 4
_STANDS_OUT: Final = 2.5 / 1.4
"""Strength over that of noise from which on a line is named: where a device begins to name faults."""
_OWN: Final = 0.6
"""A line below this share of the strongest one is what the strongest one makes of all: it names no fault."""
_Command: TypeAlias = Annotated[str, Path(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_Channel: TypeAlias = Annotated[int, Query(ge=0, le=63)]
_Text: TypeAlias = Annotated[str, Query(max_length=24)]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a reader asks to see. Frequencies in Hz; None: chosen for them."""

    channel: int
    snapshot: int
    rpm: float | None
    harmonics: int
    sides: int
    view: tuple[float | None, float | None]
    envelope_view: tuple[float | None, float | None]
    carrier: tuple[float | None, float | None]
    beside: str


def _number(text: str) -> float | None:
    """The number that a field of a form holds; None for an empty one, or for what is no number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= 1e9 else None


def _choice(
    channel: _Channel = 0,
    snapshot: Annotated[int, Query(ge=1, le=10_000_000)] = 1,
    rpm: _Text = "",
    harmonics: Annotated[int, Query(ge=1, le=chart.MOST_HARMONICS)] = 3,
    sides: Annotated[int, Query(ge=0, le=chart.MOST_SIDES)] = 1,
    low: _Text = "",
    high: _Text = "",
    envelope_low: _Text = "",
    envelope_high: _Text = "",
    carrier_low: _Text = "",
    carrier_high: _Text = "",
    beside: Annotated[str, Query(max_length=64)] = "",
) -> Choice:
    return Choice(
        channel=channel,
        snapshot=snapshot,
        rpm=_number(rpm) or None,
        harmonics=harmonics,
        sides=sides,
        view=(_number(low), _number(high)),
        envelope_view=(_number(envelope_low), _number(envelope_high)),
        carrier=(_number(carrier_low), _number(carrier_high)),
        beside=beside,
    )


@router.get("/diagnosis/{command}")
def show_diagnosis(
    command: _Command, request: Request, page: Asked, choice: Annotated[Choice, Depends(_choice)]
) -> Response:
    """One recording, or two."""
    principal = viewer(page, request)
    if principal is None:
        return sign_in_form(page)
    capture = get_capture(page.engine, command)
    with at_work():
        values = _diagnosis(page, capture, choice)
    return render("diagnosis.html", principal, request, values)


@router.get("/diagnosis/{command}/waterfall")
def show_waterfall(
    command: _Command, request: Request, page: Asked, channel: _Channel = 0, high: _Text = ""
) -> Response:
    """The spectra of all recordings of the place, the oldest at the back."""
    principal = viewer(page, request)
    if principal is None:
        return sign_in_form(page)
    capture = get_capture(page.engine, command)
    with at_work():
        recording = open_recording(page.captures_dir, capture)
        channel = min(channel, len(recording.channels) - 1)
        name = recording.channels[channel]
        asset = place_of(page, capture, name)
        edge = min(_number(high) or recording.sample_rate_hz / 2, recording.sample_rate_hz / 2)
        captures = _recordings(page, capture, asset)[::-1]
        rows, missing = waterfall(page.captures_dir, captures, name, edge, ROW_POINTS)
    drawn, height = chart.draw_rows([row.amplitudes for row in rows], edge)
    values: dict[str, Any] = {
        "capture": capture,
        "asset": asset,
        "rows": rows,
        "missing": missing,
        "drawn": drawn,
        "height": height,
    }
    values |= {"channel": channel, "channels": recording.channels, "unit": recording.units[channel], "high": edge}
    return render("waterfall.html", principal, request, values | {"nyquist": recording.sample_rate_hz / 2})


@router.get("/diagnosis/{command}/sound.wav")
def play(command: _Command, page: Asked, principal: Viewer, channel: _Channel = 0) -> Response:
    """A channel of a recording as sound."""
    with at_work():
        recording = open_recording(page.captures_dir, get_capture(page.engine, command))
        if channel >= len(recording.channels):
            raise FleetError("capture.channel", f"there are {len(recording.channels)} channels, counted from 0", 404)
        made, _ = sound(recording, channel)
    return Response(made, media_type="audio/wav", headers={"Cache-Control": "private, max-age=3600"})


def _diagnosis(page: Page, capture: CaptureView, choice: Choice) -> dict[str, Any]:
    recording = open_recording(page.captures_dir, capture)
    channel = min(choice.channel, len(recording.channels) - 1)
    name, rate = recording.channels[channel], recording.sample_rate_hz
    asset = place_of(page, capture, name)
    known = bearings_of(page, capture, recording, asset)
    rpm = choice.rpm or known.rpm
    values = some_snapshots(recording, channel)
    snapshot = min(choice.snapshot, recording.snapshots)
    found: dict[str, Any] = {
        "capture": capture, "asset": asset, "channels": recording.channels, "channel": channel,
        "unit": recording.units[channel], "rate": rate, "snapshots": recording.snapshots, "snapshot": snapshot,
        "seconds": recording.window_samples / rate, "rpm": rpm, "known": known, "choice": choice,
        "others": [each for each in _recordings(page, capture, asset) if each.command != capture.command],
        "faster": max(1, math.ceil(3000 / rate)), "defects": DEFECTS, "stands_out": _STANDS_OUT, "own": _OWN,
        "problem": "", "most": {"harmonics": chart.MOST_HARMONICS, "sides": chart.MOST_SIDES},
    }  # fmt: skip
    beside, problem = _beside(page, choice, name)
    found |= {"beside": None if beside is None else beside[0], "problem": problem}
    found |= _waves(recording, channel, snapshot, None if beside is None else beside[1], name)
    found |= _iso(values, rate, recording.units[channel], asset)
    return found | _spectra(values, rate, None if beside is None else beside[1], name, choice, known, rpm)


def _spectra(
    values: Any,
    rate: float,
    other: Recording | None,
    name: str,
    choice: Choice,
    known: Bearings,
    rpm: float | None,
) -> dict[str, Any]:
    """The spectrum, the envelope spectrum, and what the lines of the bearing's faults say."""
    shaft_hz = None if rpm is None else rpm / 60
    faults = () if known.bearing is None else chart.faults_of(known.bearing)
    view = _edges(choice.view, 0.0, rate / 2, rate / 2)
    reach = rate / 16 if shaft_hz is None or not faults else 3.5 * max(each.order for each in faults) * shaft_hz
    envelope_view = _edges(choice.envelope_view, 0.0, min(rate / 2, reach), rate / 2)
    if None in choice.carrier:
        carrier = spectra.carrier_band(values, rate)
    else:
        carrier = spectra.Band(*_edges(choice.carrier, rate / 16, rate / 2, rate / 2))
    sets = [(values, rate)]
    if other is not None:
        sets.append((some_snapshots(other, other.channels.index(name)), other.sample_rate_hz))
    drawn = chart.draw_spectra([spectra.spectrum(*each, spectra.Band(*view)) for each in sets], *view)
    depths = [spectra.envelope_spectrum(*each, carrier, spectra.Band(*envelope_view)) for each in sets]
    marked: dict[str, list[chart.Marker]] = {"spectrum": [], "envelope": []}
    lines: list[spectra.Line] = []
    if shaft_hz is not None and faults:
        for kind, (low, high) in (("spectrum", view), ("envelope", envelope_view)):
            marked[kind] = chart.markers(faults, shaft_hz, low, high, choice.harmonics, choice.sides)
        lines = spectra.fault_lines(values, rate, carrier, {each.name: each.order * shaft_hz for each in faults})
    charts = [("spectrum", drawn), ("envelope", chart.draw_spectra(depths, *envelope_view))]
    moving = [
        {"name": each.name, "order": each.order, "step": each.step, "said": DEFECTS[each.name]} for each in faults
    ]
    return {
        "charts": charts,
        "markers": marked,
        "faults": moving,
        "lines": lines,
        "carrier": carrier,
        "resolution_hz": depths[0].resolution_hz,
    }


def _waves(recording: Recording, channel: int, snapshot: int, other: Recording | None, name: str) -> dict[str, Any]:
    """The waveform of the chosen snapshot, of both recordings, and what its shape is."""
    both = [(recording, channel)] + ([] if other is None else [(other, other.channels.index(name))])
    waves, shapes = [], []
    for each, place in both:
        number = min(snapshot, each.snapshots)
        samples = one_snapshot(each, place, number)
        waves.append(
            chart.draw_waveform(spectra.waveform(samples, each.sample_rate_hz), len(samples) / each.sample_rate_hz)
        )
        shapes.append(spectra.shape(samples))
    return {"waves": waves, "shapes": shapes}


def _iso(values: Any, rate: float, unit: str, asset: AssetDetail | None) -> dict[str, Any]:
    """The vibration velocity of the recording, and the zone that it is in where the machine's class is known."""
    velocity = spectra.velocity_mm_s(values, rate, unit)
    known = None if asset is None else asset.effective.iso20816
    found = None
    if velocity is not None and known is not None:
        found = zone(Iso20816(group=known.group, foundation=known.foundation, channels=[0]), velocity)
    return {"velocity": velocity, "zone": found}


def _beside(page: Page, choice: Choice, name: str) -> tuple[tuple[CaptureView, Recording] | None, str]:
    """The second recording, or why it cannot be shown."""
    if not choice.beside:
        return None, ""
    try:
        capture = get_capture(page.engine, choice.beside)
        recording = open_recording(page.captures_dir, capture)
    except FleetError as error:
        return None, error.message
    if name not in recording.channels:
        return None, f"the recording to compare with has no channel {name!r}: it has {', '.join(recording.channels)}"
    return (capture, recording), ""


def _recordings(page: Page, capture: CaptureView, asset: AssetDetail | None) -> list[CaptureView]:
    """The newest recordings of the place, by whatever measured it, newest first."""
    sources = [(capture.device, capture.pipeline)]
    sources += [(each.device, each.pipeline) for each in (asset.mappings if asset is not None else [])]
    found: dict[str, CaptureView] = {}
    for device, pipeline in list(dict.fromkeys(sources))[:_SOURCES_READ]:
        newest = list_captures(page.engine, device, RECORDINGS_LISTED).items
        found |= {each.command: each for each in newest if each.state == "received" and each.pipeline == pipeline}
    return sorted(found.values(), key=lambda each: (each.received_at or 0.0, each.command), reverse=True)


def _edges(asked: tuple[float | None, float | None], low: float, high: float, most: float) -> tuple[float, float]:
    """The edges that were asked for where they can be shown, and else those that are proposed."""
    begin = low if asked[0] is None else asked[0]
    end = min(high if asked[1] is None else asked[1], most)
    return (begin, end) if begin < end else (low, high)
