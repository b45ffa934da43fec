"""The reader of tables, by the name that it has had here: it is in
:mod:`wheeltapper_fleet.learning.datasets.tables`."""

from __future__ import annotations

from wheeltapper_fleet.learning.datasets.tables import TableForm, read_any

__all__ = ["TableForm", "read_any"]
