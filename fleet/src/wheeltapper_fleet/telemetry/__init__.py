"""Telemetry: records that devices deliver come in; stored rows, spool positions and comparisons with training go out.

``rules.py``, ``drift.py`` and ``schemas.py`` are pure. ``store.py`` writes in the caller's transaction; ``views.py``
reads.
"""
