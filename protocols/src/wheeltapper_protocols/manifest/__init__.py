"""The manifest of a bundle, and how the task that it names is computed.

The signed bytes of a manifest come in; a checked :class:`manifest.Manifest` goes out, and with it the task that turns
windows into the model's input and the model's output into scores. Every file here is pure: no I/O, no clock, no random
numbers.
"""
