"""Wheeltapper's agent: runs a quantized model beside a machine and reports over MQTT."""

__version__ = "0.1.0"
__all__ = ["__version__"]
