"""Samples become windows.

In come samples of a sensor, a broker, a server, a file or a simulator, and the configuration of a source; out come
windows of samples in physical units, which say what was missing, late or left out. ``base.py``, ``cutter.py``,
``framing.py``, ``timing.py``, ``payload.py``, ``stream_config.py`` and ``iio_format.py`` are pure.
"""
