"""Keys, signatures and certificates: who may sign what, and who is a device.

In come keys, metadata that a model team signed, and devices' certificate requests; out go TUF metadata, signed
assignments and certificates. Pure: none of its files (they read keys and metadata from disk).
"""
