"""Lineage: an alert, a recording or a release comes in; where it came from, where it went, and its card, go out.

``schemas.py`` and ``card_text.py`` are pure. ``contents.py`` keeps the index of what versions of datasets hold, a
bounded part a turn; ``views.py`` and ``card.py`` read, a page at a time: nothing is proportional to the fleet.
"""
