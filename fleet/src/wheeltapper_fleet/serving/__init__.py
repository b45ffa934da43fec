"""What ``wheeltapper serve`` starts: one file a part, each made from the configuration and ended by an exit stack.

In come the configuration and the keys; out go the running parts: the process (lock, ports, ``serve.json``), messaging
with devices, the admin server. :mod:`wheeltapper_fleet.service` puts them together. No file here is pure.
"""
