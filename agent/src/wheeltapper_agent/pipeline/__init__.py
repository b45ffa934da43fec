"""A window becomes a decision.

In come windows of a source and the bundle that scores them; out go a telemetry record for each window, alerts, drift
reports and data quality, handed to ``records/``. ``change.py``, ``config.py``, ``observation.py`` and ``quality.py``
are pure; ``drift.py`` reads the clock that it is given; ``pipeline.py`` and ``ledger.py`` own a thread and locks.
"""
