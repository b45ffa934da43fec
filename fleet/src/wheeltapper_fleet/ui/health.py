"""How a device does: drift of each feature, data quality of each pipeline, what of its records came, its executions.

Cost: what one device reported in a day, and a page of its executions.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from wheeltapper_fleet.campaigns.views import list_device_executions
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.devices.schemas import PipelineView
from wheeltapper_fleet.devices.views import get_device
from wheeltapper_fleet.promotion.quality import manifest_of
from wheeltapper_fleet.telemetry.drift import ReleaseDrift
from wheeltapper_fleet.telemetry.history import history
from wheeltapper_fleet.telemetry.views import delivery_of, release_drift
from wheeltapper_fleet.ui.answering import ROWS_SHOWN, Named, answer, attempt
from wheeltapper_fleet.ui.rendering import After, Asked, Page

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
FEATURES_SHOWN: Final = 60
_DAY: Final = 86_400.0
_HOURS: Final = 24


@router.get("/devices/{device}/health")
def show_health(device: Named, request: Request, page: Asked) -> Response:
    """Drift and data quality of a day, and whether records are missing."""
    return answer(
        "health.html",
        request,
        page,
        lambda _: {
            "device": device,
            "delivery": delivery_of(page.engine, device),
            "pipelines": [
                _pipeline(page, device, each) for each in get_device(page.engine, device, page.clock()).pipelines
            ],
        },
    )


def _pipeline(page: Page, device: str, pipeline: PipelineView) -> dict[str, Any]:
    """A pipeline's windows by the hour, and its drift against the training of what it runs."""
    now = page.clock()
    with reading(page.engine) as connection:
        hours = history(connection, device, pipeline.name, now - _DAY, now, _HOURS)
    drift, problem = None, "it runs no model"
    if pipeline.model is not None and pipeline.release is not None:
        model, release = pipeline.model, pipeline.release
        drift, problem = attempt(lambda: _drift(page, device, model, release, now), None)
    features = [] if drift is None else sorted(drift.features, key=lambda each: (not each.moved, -each.psi))
    return {
        "pipeline": pipeline,
        "windows": sum(each.windows for each in hours),
        "missing": sum(each.missing for each in hours),
        "alarms": sum(each.warnings + each.criticals for each in hours),
        "hours": hours,
        "drift": drift,
        "problem": problem,
        "features": features[:FEATURES_SHOWN],
    }


def _drift(page: Page, device: str, model: str, release: int, now: float) -> ReleaseDrift:
    with reading(page.engine) as connection:
        manifest = manifest_of(connection, model, release)
    return release_drift(page.engine, manifest, now - _DAY, now, device)


@router.get("/devices/{device}/executions")
def show_executions(device: Named, request: Request, page: Asked, after: After = None) -> Response:
    """What was to be run on a device, newest first, and how each attempt ended."""
    return answer(
        "executions.html",
        request,
        page,
        lambda _: {
            "device": get_device(page.engine, device, page.clock()).id,
            "found": list_device_executions(page.engine, device, ROWS_SHOWN, after or None),
        },
    )
