"""The simulator of many devices: a number, a seed and a fault table come in, real connections to a fleet go out.

Each simulated device enrols, connects over MQTT and TLS with a certificate of its own, verifies assignments, carries
them out, and sends records until they are acknowledged, or does what its faults say. Nothing here is known to the
service, which cannot tell these devices from agents.

Not pure are ``tls_link`` (one connection), ``identities`` (enrolment and the folder that remembers it), ``trust`` (TUF
metadata), ``simulator`` and ``run``. All other files are: what a device decides is a function of values.
"""
