"""The connections to the fleet: the device's identity, MQTT to the broker, HTTPS to the service.

In come payloads of the broker, handed to a callback, and answers of the service, in pieces as they arrive. Out go
payloads and requests; all connections use TLS with the device's certificate, except the first request of an enrolment.

No file of this room is pure.
"""
