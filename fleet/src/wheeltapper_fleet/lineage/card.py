"""The model card of a release, written from its signed manifest and the fleet's records; no number is typed in.

What nobody measured says "not measured".

Cost: a manifest, some look-ups by key, the model's labels of a year, and the estimate of
:mod:`wheeltapper_fleet.promotion.quality`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, Engine, select

from wheeltapper_fleet.db.engine import reading
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.lineage.schemas import ReleaseLineage
from wheeltapper_fleet.lineage.views import release_lineage
from wheeltapper_fleet.promotion.comparison import field_of
from wheeltapper_fleet.promotion.quality import estimated_quality, manifest_of
from wheeltapper_fleet.promotion.schemas import CardRow, CardSection, ReleaseCard
from wheeltapper_fleet.registry.tables import promotion_log
from wheeltapper_protocols.manifest.manifest import Gate, Manifest

__all__ = ["NOT_MEASURED", "card_of"]

NOT_MEASURED: Final = "not measured"
_YEAR_SECONDS: Final = 365 * 86_400.0
_WEEK_SECONDS: Final = 7 * 86_400.0
_LOG: Final = 50
_SEGMENTS: Final = ("machine", "site", "condition", "segment", "fair")
"""What the name of a gate on parts of the data holds."""


def card_of(engine: Engine, model: str, release: int, now: float) -> ReleaseCard:
    """The card of a release.

    Args:
        engine: the fleet's database.
        model, release: of which release.
        now: Unix seconds; the field is that of the year before, estimates those of the week before.

    Raises:
        FleetError: ``release.not_found``, ``release.unreadable``.
    """
    origin = release_lineage(engine, model, release)
    with reading(engine) as connection:
        manifest = manifest_of(connection, model, release)
        happened = _promotions(connection, model, release)
        found = field_of(connection, model, release, now - _YEAR_SECONDS, now)
    true, false = found.true_faults, found.false_alarms
    interval = f"{found.precision_low:.2f} to {found.precision_high:.2f}"
    precision = None if found.precision is None else f"{found.precision:.2f} (95 %: {interval}; {true} + {false} cases)"
    field = [("precision of alerts, a year", precision), *_estimates(engine, model, release, now)]
    named = [gate for gate in manifest.gates if any(word in gate.name for word in _SEGMENTS)]
    taken = [(each.id, f"{each.state}, made {_day(each.created_at)}") for each in origin.campaigns]
    return ReleaseCard(
        model=model,
        release=release,
        sections=[
            _section("Release", _release(origin, manifest)),
            _section("What it is for", _purpose(manifest)),
            _section("Data and training", _training(origin)),
            _section("Gates", ((gate.name, _gate(gate)) for gate in manifest.gates)),
            _section("Machines, sites and conditions", ((gate.name, _gate(gate)) for gate in named)),
            _section("Limits", _limits(manifest)),
            _section("Drift and baseline", _references(manifest)),
            _section("Approvals", happened, "none"),
            _section("Campaigns", taken, "none"),
            _section("In the field", field),
        ],
    )


def _section(title: str, rows: Iterable[tuple[str, str | None]], empty: str = NOT_MEASURED) -> CardSection:
    """A section; an empty one says ``empty``, and a value of None that nobody measured it."""
    found = [CardRow(name=name, value=value or NOT_MEASURED) for name, value in rows]
    return CardSection(title=title, rows=found or [CardRow(name="", value=empty)])


def _release(origin: ReleaseLineage, manifest: Manifest) -> list[tuple[str, str | None]]:
    return [
        ("published", f"{_day(origin.published_at)} by {origin.published_by}"),
        ("made", manifest.created_at),
        ("manifest", origin.sha256),
        ("aliases", ", ".join(origin.aliases) or "none"),
    ]


def _purpose(manifest: Manifest) -> list[tuple[str, str | None]]:
    shape = manifest.input
    channels = ", ".join(f"{name} ({unit})" for name, unit in zip(shape.channels, shape.units, strict=True))
    rows: list[tuple[str, str | None]] = [
        ("task", manifest.task.replace("_", " ")),
        ("input", f"{shape.window_samples} samples at {shape.sample_rate_hz:g} Hz of {channels}"),
    ]
    if manifest.classification is not None:
        section = manifest.classification
        rows.append(("classes", f"{', '.join(section.classes)}; normal: {', '.join(section.normal)}"))
    if manifest.remaining_life is not None:
        life = manifest.remaining_life
        rows.append(("warns", f"at {life.warn_at:g} {life.unit}; says up to {life.cap:g}"))
    return rows


def _training(origin: ReleaseLineage) -> list[tuple[str, str | None]]:
    data = [f"{each.dataset}@{each.version}" for each in origin.trained_on]
    split = [each.split for each in origin.trained_on if each.split]
    hashes = sum(name.startswith("recording-") for name in origin.lineage)
    told = [(name, value) for name, value in sorted(origin.lineage.items()) if not name.startswith("recording-")]
    return [("dataset", ", ".join(data) or f"{hashes} recordings, by hash" if data or hashes else None),
            ("split", ", ".join(split) or None), *told]  # fmt: skip


def _gate(gate: Gate) -> str:
    detail = f"; {gate.detail}" if gate.detail else ""
    return f"{gate.value:.4g}, limit {gate.limit:.4g}, {'passed' if gate.passed else 'failed'}{detail}"


def _limits(manifest: Manifest) -> list[tuple[str, str | None]]:
    runtimes = [claimed.name for each in manifest.formats() for claimed in each.runtimes or ()]
    return [
        ("latency, 95 %", f"{manifest.budget.latency_p95_ms:g} ms a window"),
        ("memory", f"{manifest.budget.rss_growth_mb:g} MB"),
        ("size", f"{sum(file.length for file in manifest.files)} bytes"),
        ("runtimes tested", ", ".join(runtimes) or None),
        ("channels that may be missing", str(manifest.missing_channels)),
        ("operating conditions", "those of training; others are said" if manifest.condition is not None else None),
    ]


def _references(manifest: Manifest) -> list[tuple[str, str | None]]:
    drift, baseline = manifest.drift, manifest.baseline
    windows = None if drift is None else f"{sum(drift.score.counts)} windows, {len(drift.features)} features"
    learnt = None if baseline is None else f"each device learns its own in {baseline.windows} windows"
    return [("drift reference", windows), ("baseline", learnt or "that of the release")]


def _promotions(connection: Connection, model: str, release: int) -> list[tuple[str, str | None]]:
    """What happened to the promotions of a release, oldest first; the newest 50."""
    mine = (promotion_log.c.model == model, promotion_log.c.release == release)
    rows = connection.execute(select(promotion_log).where(*mine).order_by(promotion_log.c.id.desc()).limit(_LOG)).all()
    return [
        (f"{_day(row.at)} {row.alias}", f"{row.event} by {row.who}" + (f": {row.detail}" if row.detail else ""))
        for row in reversed(rows)
    ]


def _estimates(engine: Engine, model: str, release: int, now: float) -> list[tuple[str, str | None]]:
    try:
        found = estimated_quality(engine, model, release, now - _WEEK_SECONDS, now)
    except FleetError as error:
        if error.code != "quality.not_measured":
            raise
        return [("estimated without labels", None)]
    rows: list[tuple[str, str | None]] = []
    for each in found.figures:
        said = f"{NOT_MEASURED}: {each.why}"
        if each.value is not None:
            said = f"{each.value:.3g} ({each.low:.3g} to {each.high:.3g}), held out {each.reference:.3g}"
        rows.append((f"{each.name}, estimated over a week", said))
    return rows


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
