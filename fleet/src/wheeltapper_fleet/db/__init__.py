"""The database: a URL comes in, an engine whose tables are up to date goes out.

The tables are in each room's ``tables.py``. ``metadata.py`` and ``stored_json.py``
do no I/O; ``engine.py`` and the migrations do.
"""
