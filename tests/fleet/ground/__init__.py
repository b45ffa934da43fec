"""Tests of what the fleet service stands on."""
