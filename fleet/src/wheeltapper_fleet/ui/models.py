"""Pages of models: releases, aliases with their history and rules, promotions; a release with its card, gates, lineage
and drift; two releases side by side.

Cost: one page of each list; a release costs its manifest, and its drift and quality the reports of a time
(:func:`wheeltapper_fleet.telemetry.views.drift_totals` adds up 2,000 at most), twice for two of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from wheeltapper_fleet.access.principal import Principal
from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.lineage.card import card_of
from wheeltapper_fleet.lineage.views import release_devices, release_lineage, release_recordings
from wheeltapper_fleet.promotion.comparison import compare_releases
from wheeltapper_fleet.promotion.quality import estimated_quality, manifest_of
from wheeltapper_fleet.promotion.views import get_promotion, list_promotion_log, list_promotions
from wheeltapper_fleet.registry.aliases import list_alias_changes, list_aliases
from wheeltapper_fleet.registry.promotion import list_rules
from wheeltapper_fleet.registry.views import list_model_releases, list_models
from wheeltapper_fleet.telemetry.views import release_drift
from wheeltapper_fleet.ui.answering import ROWS_SHOWN, Named, ReleaseNumber, answer, attempt
from wheeltapper_fleet.ui.rendering import After, Asked, Page
from wheeltapper_protocols.manifest.manifest import Manifest

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
CHANGES_SHOWN: Final = 20
FEATURES_SHOWN: Final = 60
_DAY: Final = 86_400.0
_WEEK: Final = 7 * _DAY
_YEAR: Final = 365 * _DAY
_INT8: Final = ("int8", "float")
"""What the name of a gate holds that compares the small model with the one before it was made small."""
_Number = Annotated[int, Query(ge=1, le=999_999_999)]


@router.get("/models")
def show_models(request: Request, page: Asked, after: After = None) -> Response:
    """Models by name, and the promotions that wait."""
    return answer(
        "models/models.html",
        request,
        page,
        lambda _: {
            "found": list_models(page.engine, ROWS_SHOWN, after or None),
            "waiting": list_promotions(page.engine, None, "waiting", CHANGES_SHOWN),
        },
    )


@router.get("/models/{model}")
def show_model(model: Named, request: Request, page: Asked, after: After = None) -> Response:
    """A model: what its aliases name and ask for, what waits to be promoted, its releases."""
    return answer("models/model.html", request, page, lambda who: _model(page, model, after or None, who))


def _model(page: Page, model: str, after: str | None, who: Principal) -> dict[str, Any]:
    releases = list_model_releases(page.engine, model, ROWS_SHOWN, after)
    if not releases.items and after is None:
        raise FleetError("release.not_found", f"the model {model!r} has no release yet", 404)
    aliases = list_aliases(page.engine, model, ROWS_SHOWN).items
    named: dict[int, list[str]] = {}
    for each in aliases:
        named.setdefault(each.release, []).append(each.alias)
    waiting = [
        each for each in list_promotions(page.engine, model, None, CHANGES_SHOWN).items if each.state == "waiting"
    ]
    return {
        "model": model,
        "releases": releases,
        "aliases": aliases,
        "named": named,
        "rules": {each.alias: each for each in list_rules(page.engine, model, ROWS_SHOWN).items},
        "promotions": [get_promotion(page.engine, each.id, page.clock()) for each in waiting],
        "changes": list_alias_changes(page.engine, model, None, CHANGES_SHOWN),
        "log": list_promotion_log(page.engine, model, CHANGES_SHOWN),
        "may_ask": who.may("alias.set"),
        "may_approve": who.may("promotion.approve"),
        "me": who.name,
    }


@router.get("/models/{model}/compare")
def show_comparison(model: Named, request: Request, page: Asked, one: _Number = 1, other: _Number = 2) -> Response:
    """Two releases side by side: gates, what differs, drift and live quality."""

    def read(_: object) -> dict[str, Any]:
        if one == other:
            raise FleetError("release.same", "choose two releases: these are the same one", 400)
        now = page.clock()
        found = compare_releases(page.engine, model, one, other, now - _YEAR, now)
        live = [_live(page, model, number, now) for number in (one, other)]
        figures = [{each.name: each for each in side["quality"].figures} if side["quality"] else {} for side in live]
        names = list(dict.fromkeys(name for side in figures for name in side))
        features = [{each.name: each for each in side["drift"].features} if side["drift"] else {} for side in live]
        shared = list(dict.fromkeys(name for side in features for name in side))
        shared.sort(key=lambda name: -max(side[name].psi for side in features if name in side))
        return {
            "model": model,
            "comparison": found,
            "live": live,
            "figures": [(name, [side.get(name) for side in figures]) for name in names],
            "features": [(name, [side.get(name) for side in features]) for name in shared[:FEATURES_SHOWN]],
            "more_features": max(0, len(shared) - FEATURES_SHOWN),
        }

    return answer("models/compare.html", request, page, read)


def _live(page: Page, model: str, release: int, now: float) -> dict[str, Any]:
    """How a release does on its devices: drift of a day, quality of a week; with what keeps either from being known."""
    with reading(page.engine) as connection:
        manifest = manifest_of(connection, model, release)
    return _live_of(page, manifest, now)


def _live_of(page: Page, manifest: Manifest, now: float) -> dict[str, Any]:
    model, release = manifest.model, manifest.release or 0  # one that is published has a number
    drift, no_drift = attempt(lambda: release_drift(page.engine, manifest, now - _DAY, now), None)
    quality, no_quality = attempt(lambda: estimated_quality(page.engine, model, release, now - _WEEK, now), None)
    return {"release": release, "drift": drift, "no_drift": no_drift, "quality": quality, "no_quality": no_quality}


@router.get("/models/{model}/{release}")
def show_release(model: Named, release: ReleaseNumber, request: Request, page: Asked, after: After = None) -> Response:
    """A release: its card, gates, where it came from, who runs it, how it does."""

    def read(_: object) -> dict[str, Any]:
        now = page.clock()
        with reading(page.engine) as connection:
            manifest = manifest_of(connection, model, release)
        live = _live_of(page, manifest, now)
        drift = live["drift"]
        moved = [] if drift is None else sorted(drift.features, key=lambda each: (not each.moved, -each.psi))
        return live | {
            "model": model,
            "manifest": manifest,
            "lineage": release_lineage(page.engine, model, release),
            "small": [gate for gate in manifest.gates if any(word in gate.name for word in _INT8)],
            "features": moved[:FEATURES_SHOWN],
            "card": card_of(page.engine, model, release, now),
            "devices": release_devices(page.engine, model, release, ROWS_SHOWN, after or None, now=now),
        }

    return answer("models/release.html", request, page, read)


@router.get("/models/{model}/{release}/recordings")
def show_recordings(
    model: Named, release: ReleaseNumber, request: Request, page: Asked, after: After = None
) -> Response:
    """The recordings that a release was trained and judged on."""
    return answer(
        "models/recordings.html",
        request,
        page,
        lambda _: {
            "model": model,
            "release": release,
            "found": release_recordings(page.engine, page.datasets, model, release, ROWS_SHOWN, after or None),
        },
    )
