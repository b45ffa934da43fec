"""The embedded MQTT broker (nats-server): its configuration, its process, who may connect, and the fleet's own client.

In come devices' connections and messages; out go messages to devices, and every received message as bytes to the
ingest. Pure: ``config`` and ``permissions``.
"""
