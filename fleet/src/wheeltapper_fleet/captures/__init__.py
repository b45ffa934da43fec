"""Captures: recordings that devices upload come in; stored files and their rows go out.

A recording answers a capture command, or comes from a rule on the device itself. ``schemas.py`` and ``rules.py`` are
pure; ``service.py``, ``upload.py`` and ``partial_uploads.py`` write files; ``store.py``, ``reports.py`` and
``views.py`` use the database.
"""
