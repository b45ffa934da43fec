"""Routes of telemetry: what a device delivered, record by record and as a curve."""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from pydantic import AfterValidator, WithJsonSchema

from wheeltapper_fleet.api.context import Context
from wheeltapper_fleet.api.parameters import After, DeviceId, Limit
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.paging import DEFAULT_LIMIT, Page
from wheeltapper_fleet.telemetry.feature_curves import MOST_REPORTS, Condition, feature_curves
from wheeltapper_fleet.telemetry.history import MAX_POINTS, history, read_records
from wheeltapper_fleet.telemetry.schemas import FeatureCurvesView, HistoryView, PointView, RecordView
from wheeltapper_protocols.wire.ids import NAME_PATTERN, name

__all__ = ["router"]

_DAY_SECONDS: Final = 86_400.0
_Time = Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False, description="Unix seconds.")]
_Pipeline = Annotated[
    str,
    AfterValidator(lambda text: name(text, "pipeline name")),
    WithJsonSchema({"type": "string", "pattern": NAME_PATTERN.replace(r"\Z", "$")}),
    Query(description="The name of one of the device's pipelines."),
]
_Bound = Annotated[float | None, Query(ge=-1e30, le=1e30, allow_inf_nan=False)]
router = APIRouter()


@router.get("/devices/{device}/records")
def list_records(
    device: DeviceId,
    context: Context,
    kind: Annotated[Literal["telemetry", "alert", "report"] | None, Query(description="Only this kind.")] = None,
    from_: Annotated[_Time, Query(alias="from")] = None,
    to: _Time = None,
    order: Annotated[Literal["oldest", "newest"], Query(description="Which come first.")] = "oldest",
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> Page[RecordView]:
    """The records that a device delivered, in the order in which they came to the fleet."""
    with reading(context.engine) as connection:
        page = read_records(
            connection, device, after, limit, kind=kind, from_at=from_, to_at=to, newest_first=order == "newest"
        )
    return Page([RecordView.model_validate(record, from_attributes=True) for record in page.items], page.next)


@router.get("/devices/{device}/features")
def get_features(
    device: DeviceId,
    context: Context,
    pipeline: _Pipeline,
    from_: Annotated[_Time, Query(alias="from")] = None,
    to: _Time = None,
    reports: Annotated[int, Query(ge=1, le=MOST_REPORTS, description="How many reports are read at most.")] = 200,
    condition: Annotated[
        str | None, Query(max_length=120, pattern="^[^\\x00]*$", description="A feature that says the condition.")
    ] = None,
    low: Annotated[_Bound, Query(description="Its least mean.")] = None,
    high: Annotated[_Bound, Query(description="Its greatest mean.")] = None,
) -> FeatureCurvesView:
    """The features of a pipeline over time, from its reports of drift, those that moved most first; by default of the
    last week. With `condition`, only reports in which that feature's mean was from `low` to `high`."""
    until = context.clock() if to is None else to
    since = until - 7 * _DAY_SECONDS if from_ is None else from_
    if since >= until:
        raise FleetError("history.range", "`from` must be before `to`", 400)
    wanted = None
    if condition:
        wanted = Condition(condition, -math.inf if low is None else low, math.inf if high is None else high)
    with reading(context.engine) as connection:
        return feature_curves(connection, device, pipeline, since, until, reports, wanted)


@router.get("/devices/{device}/history")
def get_history(
    device: DeviceId,
    context: Context,
    pipeline: _Pipeline,
    from_: Annotated[_Time, Query(alias="from")] = None,
    to: _Time = None,
    points: Annotated[int, Query(ge=1, le=MAX_POINTS, description="How many points at most.")] = 500,
) -> HistoryView:
    """The scores of a pipeline as a curve with at most so many points; by default of the last day."""
    until = context.clock() if to is None else to
    since = until - _DAY_SECONDS if from_ is None else from_
    if since >= until:
        raise FleetError("history.range", "`from` must be before `to`", 400)
    with reading(context.engine) as connection:
        found = history(connection, device, pipeline, since, until, points)
    points_shown = [PointView.model_validate(point, from_attributes=True) for point in found]
    return HistoryView(device=device, pipeline=pipeline, points=points_shown)
