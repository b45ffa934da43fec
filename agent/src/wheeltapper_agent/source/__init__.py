"""Samples become windows.

In come samples of a sensor, a broker, a server, a file or a simulator, and the configuration of a source; out come
windows of samples in physical units, which say what was missing, late or left out. ``base.py``, ``cutter.py``,
``framing.py``, ``timing.py``, ``payload.py``, ``payload_formats.py``, ``payload_rows.py``, ``physical_value.py``,
``modbus_registers.py``, ``stream_config.py``, ``iio_format.py`` and ``iio_names.py`` are pure.
"""
