"""Importers of public data sets, by the name that they have had here: they are in
:mod:`wheeltapper_fleet.learning.datasets.public_sets`."""

from __future__ import annotations

from wheeltapper_fleet.learning.datasets.public_sets import IMPORTERS, import_cwru, import_femto, import_uci_fan

__all__ = ["IMPORTERS", "import_cwru", "import_femto", "import_uci_fan"]
