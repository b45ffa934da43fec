"""Files of other makers become signals.

CSV, Parquet and WAV files come in, with the options that say how their tables are written; out come samples in the
numbers of the file, with a time each where the file has times, and notes of all that was left out. ``options.py``,
``notes.py``, ``cells.py`` and ``times.py`` are pure.
"""
