"""Devices: enrolments, status messages, tags, queries and what is asked of devices come in; certificates, presence, the
life of devices, audiences, commands and settings to send go out.

``rules.py``, ``instances.py`` and ``schemas.py`` are pure; the other files use the database.
"""
