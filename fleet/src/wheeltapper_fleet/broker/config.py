"""The configuration of the embedded nats-server, generated at every start.

Invariants:
    * Devices reach only the MQTT listener, which demands a certificate of the fleet's CA.
    * The NATS client port is on loopback and accepts only the auth callout's key.
    * The file contains no secret.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["AUTH_ACCOUNT", "FLEET_ACCOUNT", "LOG_FILE", "BrokerConfig", "render"]

FLEET_ACCOUNT: Final = "FLEET"
AUTH_ACCOUNT: Final = "SYS"
"""The auth callout is in the system account, so that it can also end connections."""
LOG_FILE: Final = "nats.log"
"""The broker's own log, in its folder. It says each refused connection several times, so it is bounded."""
_LOG_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class BrokerConfig:
    """Settings of the embedded broker.

    Args:
        folder: the broker's own folder, with its configuration, pid file, log and JetStream store.
        certificate, key, ca: PEM files of the server's certificate, its key, and the CA that signs devices.
        mqtt_host, mqtt_port: where devices connect.
        client_port: NATS client port on loopback, for the auth callout.
        max_payload_bytes: largest message; the broker ends a connection that sends more.
        max_store_bytes: largest size of the JetStream store.
    """

    folder: Path
    certificate: Path
    key: Path
    ca: Path
    mqtt_host: str = "127.0.0.1"
    mqtt_port: int = 8883
    client_port: int = 4222
    max_payload_bytes: int = 1024 * 1024
    max_store_bytes: int = 1024 * 1024 * 1024


def render(config: BrokerConfig, auth_user: str, auth_issuer: str) -> str:
    """The text of nats-server's configuration file, as JSON.

    Args:
        config: the broker's settings.
        auth_user: public nkey (``U…``) with which the auth callout connects.
        auth_issuer: public nkey (``A…``) that signs the auth callout's answers.
    """
    text = {
        "server_name": "wheeltapper",
        "host": "127.0.0.1",
        "port": config.client_port,
        "log_file": str(config.folder / LOG_FILE),
        "logfile_size_limit": _LOG_BYTES,
        "logfile_max_num": 2,
        "pid_file": str(config.folder / "broker.pid"),
        "max_payload": config.max_payload_bytes,
        "max_pending": 64 * 1024 * 1024,
        "jetstream": {
            "store_dir": str(config.folder / "jetstream"),
            "max_memory_store": 16 * 1024 * 1024,
            "max_file_store": config.max_store_bytes,
        },
        "accounts": {
            FLEET_ACCOUNT: {"jetstream": "enabled"},
            AUTH_ACCOUNT: {"users": [{"nkey": auth_user}]},
        },
        "system_account": AUTH_ACCOUNT,
        "authorization": {
            "timeout": 4,
            "auth_callout": {"issuer": auth_issuer, "account": AUTH_ACCOUNT, "auth_users": [auth_user]},
        },
        "mqtt": {
            "host": config.mqtt_host,
            "port": config.mqtt_port,
            "tls": {
                "cert_file": str(config.certificate),
                "key_file": str(config.key),
                "ca_file": str(config.ca),
                "verify": True,
                "timeout": 10,
            },
        },
    }
    return json.dumps(text, indent=1)
