"""Tests of :mod:`wheeltapper_fleet.alerts`."""
