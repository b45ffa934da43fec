"""The registry: bundles with signed metadata come in; published releases and their blobs go out.

``schemas.py`` is pure. ``prepare.py`` reads a bundle's folder; ``blobs.py`` and ``releases.py`` write files;
``releases.py`` and ``views.py`` use the database.
"""
