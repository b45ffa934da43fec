"""The routes of the admin API, one file for each subject.

A request that :mod:`wheeltapper_fleet.api.app` has authenticated comes in; a pydantic view goes out. Pure: none of its
files.
"""
