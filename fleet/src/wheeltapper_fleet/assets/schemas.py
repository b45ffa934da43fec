"""Assets as the API takes them and gives them out. Pure.

Invariant: a request with an unknown field is refused.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from wheeltapper_fleet.ground.body import CLOSED, NO_NUL, Whole, either
from wheeltapper_fleet.telemetry.schemas import PointView
from wheeltapper_protocols.wire.ids import NAME_PATTERN

__all__ = [
    "AssetChange",
    "AssetDetail",
    "AssetImport",
    "AssetRequest",
    "AssetVersion",
    "AssetView",
    "Attributes",
    "Bearing",
    "CurveView",
    "ImportResult",
    "ImportedAsset",
    "Iso20816Class",
    "MappingEnd",
    "MappingRequest",
    "MappingView",
    "PointHistory",
    "SpeedSource",
]

MAX_IMPORT: Final = 1000
"""Assets of one import; longer files come in several."""
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN.replace(r"\Z", "$"))]
_Label = Annotated[str, StringConstraints(max_length=120, pattern=NO_NUL)]
_Short = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL)]
Version = Annotated[int, Field(ge=1, le=999_999_999), Whole] | None
_UnixSeconds = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]


class _Closed(BaseModel):
    model_config = CLOSED


class Bearing(_Closed):
    """The geometry of a rolling bearing, from which its defect frequencies follow."""

    name: _Label = ""
    rolling_elements: Annotated[int, Field(ge=3, le=500), Whole]
    ball_diameter_mm: Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)]
    pitch_diameter_mm: Annotated[float, Field(gt=0, le=1e5, allow_inf_nan=False)]
    contact_angle_deg: Annotated[float, Field(ge=0, lt=90, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _fits(self) -> Bearing:
        if self.ball_diameter_mm >= self.pitch_diameter_mm:
            raise PydanticCustomError("asset.bearing", "ball_diameter_mm must be below pitch_diameter_mm")
        return self


class SpeedSource(_Closed):
    """Where a shaft's speed comes from: ``fixed`` (``rpm``), a ``channel`` of the pipeline, or a ``tag`` of the device;
    the last two by ``name``.
    """

    model_config = CLOSED | ConfigDict(
        json_schema_extra=either(
            {
                "required": ["rpm"],
                "properties": {"kind": {"const": "fixed"}, "rpm": {"type": "number"}, "name": {"type": "null"}},
            },
            {
                "required": ["name"],
                "properties": {
                    "kind": {"enum": ["channel", "tag"]},
                    "name": {"type": "string"},
                    "rpm": {"type": "null"},
                },
            },
        )
    )

    kind: Literal["fixed", "channel", "tag"]
    rpm: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    name: _Short | None = None

    @model_validator(mode="after")
    def _complete(self) -> SpeedSource:
        if (self.kind == "fixed") != (self.rpm is not None) or (self.kind == "fixed") == (self.name is not None):
            raise PydanticCustomError("asset.speed", "a fixed speed has rpm; a channel or a tag has a name")
        return self


class Iso20816Class(_Closed):
    """The group of the machine and its foundation by ISO 20816-3."""

    group: Annotated[Literal[1, 2], Whole]
    foundation: Literal["rigid", "flexible"]


class Attributes(_Closed):
    """What is known of an asset beyond its name. A point takes what it lacks from what it belongs to."""

    bearing: Bearing | None = None
    speed: SpeedSource | None = None
    iso20816: Iso20816Class | None = None
    note: Annotated[str, StringConstraints(max_length=500, pattern=NO_NUL)] = ""


class AssetRequest(_Closed):
    """Create an asset. Every asset but a site belongs to a ``parent`` of a higher kind."""

    id: Name
    kind: Literal["site", "machine", "component", "point"]
    parent: Name | None = None
    name: _Label = ""
    criticality: Literal["low", "normal", "high"] = "normal"
    attributes: Attributes = Attributes()


class AssetChange(_Closed):
    """Change an asset at the version that the change was decided on. What is left out stays."""

    expected_version: Version = None
    parent: Name | None = None
    name: _Label | None = None
    criticality: Literal["low", "normal", "high"] | None = None
    attributes: Attributes | None = None


class AssetVersion(_Closed):
    """The version of an asset that a decision was made on (the header ``If-Match`` says the same)."""

    expected_version: Version = None


class MappingEnd(_Closed):
    """End the mappings of a point at ``at`` (Unix seconds; default: now)."""

    at: _UnixSeconds | None = None


class MappingRequest(_Closed):
    """From ``from_at`` on (Unix seconds; default: now) a device's pipeline and channel (``*``: all) measure a point.

    ``replace`` ends the mappings that the point has then: the gateway was replaced.
    """

    device: Name
    pipeline: Name = "main"
    channel: _Short = "*"
    from_at: _UnixSeconds | None = None
    to_at: _UnixSeconds | None = None
    replace: bool = False


class ImportedMapping(_Closed):
    """The mapping of an imported point; it is made where the point has no such one yet."""

    device: Name
    pipeline: Name = "main"
    channel: _Short = "*"
    from_at: _UnixSeconds | None = None


class ImportedAsset(AssetRequest):
    """One asset of an import; a point may say what measures it."""

    mapping: ImportedMapping | None = None


class AssetImport(_Closed):
    """Create what is not there and change what differs, parents before what belongs to them: all of it or nothing."""

    assets: Annotated[list[ImportedAsset], Field(min_length=1, max_length=MAX_IMPORT)]
    dry_run: bool = False


class ImportResult(BaseModel):
    """What an import did (or, as a dry run, would have done)."""

    created: list[str]
    changed: list[str]
    unchanged: int
    mapped: list[str]
    dry_run: bool


class MappingView(BaseModel):
    """A device's pipeline and channel measure a point from ``from_at`` until ``to_at`` (Unix seconds; None: until
    further notice).
    """

    id: int
    point: str
    device: str
    pipeline: str
    channel: str
    from_at: float
    to_at: float | None


class CurveView(BaseModel):
    """What a device's pipeline measured of a point from ``from_at`` to ``to_at`` (Unix seconds)."""

    device: str
    pipeline: str
    channel: str
    from_at: float
    to_at: float
    points: list[PointView]


class PointHistory(BaseModel):
    """The history of a point: one curve for each device that measured it, oldest first."""

    asset: str
    curves: list[CurveView]


class AssetView(BaseModel):
    """An asset and what it belongs to; ``site``, ``machine`` and ``component`` include the asset itself.

    ``version`` rises with every change. ``retired_at`` (Unix seconds) is set on what is no longer in use.
    """

    id: str
    kind: str
    parent: str | None
    site: str
    machine: str | None
    component: str | None
    name: str
    criticality: str
    attributes: Attributes
    version: int
    created_at: float
    updated_at: float
    retired_at: float | None


class AssetDetail(AssetView):
    """An asset, what directly belongs to it (at most 1000), and the mappings of a point, newest first.

    ``effective`` are the attributes with what is taken from the assets above. ``orders`` are the defect frequencies of
    the bearing in turns of the shaft, ``frequencies_hz`` at a fixed speed.
    """

    children: list[str]
    mappings: list[MappingView]
    effective: Attributes
    orders: dict[str, float]
    frequencies_hz: dict[str, float]
