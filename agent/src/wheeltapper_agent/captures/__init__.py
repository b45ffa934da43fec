"""Recordings of raw windows for training: what the fleet asks for, and what the device's own rules choose.

In come windows of the pipelines with capture commands and rules; out go recordings, uploaded over HTTPS, and a report
on each. Pure: :mod:`~wheeltapper_agent.captures.config`; :mod:`~wheeltapper_agent.captures.recording` only computes.
"""
