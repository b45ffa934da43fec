"""What crosses MQTT: names, topics, messages, the assignment, and how each becomes bytes.

Messages come in and bounded payloads go out, or the other way round; whatever does not keep the contract is refused
with a :class:`wheeltapper_protocols.errors.WireError`. Every file here is pure: no I/O, no clock, no random numbers.
"""
