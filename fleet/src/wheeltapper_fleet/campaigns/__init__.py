"""Campaigns: a spec, what people decide and what devices report come in; signed assignments for devices go out.

``rules/`` (every file) and ``schemas.py`` are pure. ``store.py``, ``moves.py`` (executions move), ``tallies.py`` (and
are counted), ``effects.py`` (what a step wants), ``due.py`` (whose assignment is to be composed), ``claims.py``,
``assignments.py``, ``reports.py`` and ``dispatch.py`` work in the caller's transaction; ``service.py`` (what people
do), ``default_releases.py``, ``observations.py`` (what telemetry gates hear) and ``engine.py`` (what time does) own
theirs; ``views.py``, ``why.py``, ``dry_run.py`` and ``clone.py`` read.
"""
