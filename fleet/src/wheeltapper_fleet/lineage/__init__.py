"""Lineage: an alert, a recording or a release comes in; where it came from, and where it went, goes out.

``schemas.py`` is pure. ``contents.py`` keeps the index of what versions of datasets hold, a bounded part a turn;
``views.py`` reads, a page at a time: nothing is proportional to the fleet.
"""
