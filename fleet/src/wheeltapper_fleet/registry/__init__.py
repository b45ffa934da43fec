"""The registry: bundles with signed metadata come in; published releases, their blobs and aliases go out.

``schemas.py``, ``promotion_rules.py`` and ``runnable.py`` are pure. ``prepare.py`` reads a bundle's folder;
``blobs.py`` and ``releases.py`` write files; ``releases.py`` and all others use the database.
"""
