"""Backups: what the fleet service keeps becomes one folder, and that folder becomes a service again.

In come the database and the data folder of a service that may be running; out comes a folder whose every file is named
by length and SHA-256, or a restored data folder. Pure: none of its files.
"""
