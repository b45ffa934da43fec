"""Promotion: a release and a wish come in; what speaks for and against it, and an alias that names it, go out.

``schemas.py`` is pure. ``service.py`` decides within one transaction; all others read. The rules themselves are in the
registry, which refuses what they do not allow whoever asks.
"""
