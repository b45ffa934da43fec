"""Devices: enrolments, status messages and commands come in; certificates, presence and commands to send go out.

``schemas.py`` is pure; the other files use the database.
"""
