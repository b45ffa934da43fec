"""Alerts: alert messages of devices come in; rows that people read go out.

``schemas.py`` is pure; ``store.py`` writes in the caller's transaction, ``views.py`` reads.
"""
