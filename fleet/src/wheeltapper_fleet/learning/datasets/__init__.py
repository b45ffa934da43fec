"""Datasets: files of many sources come in, immutable versions go out.

``manifest.py`` (pure) says what a version is, ``store.py`` keeps it, ``importing.py`` makes one from what
``importers.py``, ``tables.py`` and ``captures.py`` read, ``checks.py`` (pure) judges it, ``reading.py`` is what
training opens.
"""
