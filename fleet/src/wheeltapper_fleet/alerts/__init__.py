"""Alerts: alert messages of devices come in, rows that people read go out.

No file here is pure: all of them read or write the database.
"""
