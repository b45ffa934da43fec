"""Runs: a recipe file comes in and is queued; a trainer elsewhere claims it and says how it goes; a bundle, its metrics
and plots come out, with the digests of what made them.

Pure: ``recipe_text.py`` (what a recipe file says), ``rules.py`` (states and what moves them), ``schemas.py``.
``service.py`` changes runs, ``views.py`` reads them. Nothing here trains: :mod:`wheeltapper_fleet.training.runs` does.
"""
