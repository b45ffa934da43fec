"""Assets: what is watched, whichever device watches it: site, machine, component, measuring point.

In come trees of assets, by hand or from files, and which device's pipeline and channel measures a point, from when to
when. Out goes the point that an alert or a record belongs to, so that a point's history outlives a replaced gateway.
Pure: ``rules.py``, ``schemas.py``, ``files.py`` (an import's table as values). ``store.py`` and ``lookup.py`` work in
the caller's transaction, ``service.py`` owns its own, ``views.py`` and
``history.py`` read.
"""
