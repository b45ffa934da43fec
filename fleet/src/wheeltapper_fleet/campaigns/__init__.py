"""Campaigns: a spec, what people decide and what devices report come in; signed assignments for devices go out.

``rules/`` (every file) and ``schemas.py`` are pure. ``store.py``, ``assignments.py``, ``reports.py`` and
``dispatch.py`` work in the caller's transaction; ``service.py`` (what people do) and ``engine.py`` (what time does) own
theirs; ``views.py`` reads.
"""
