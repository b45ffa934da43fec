"""Tests of the sources, against real servers and files."""
