"""The configuration of nats-server on machines of its own: one node, or a cluster of them. Pure.

Invariants:
    * Devices reach only the MQTT listener, which demands a certificate of the fleet's CA.
    * The client port speaks TLS, and lets in the auth callout's key; everybody else is asked of the auth callout, which
      refuses.
    * Nodes know each other by TLS and by a password: a device's certificate is not enough to join the cluster.

Source: NATS documentation, "Configuration", "Clustering", "MQTT", "Auth Callout", "Subject Mapping and Partitioning".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wheeltapper_fleet.broker.config import AUTH_ACCOUNT, FLEET_ACCOUNT
from wheeltapper_fleet.broker.partitions import SUBJECT_MAPPINGS

__all__ = ["NatsPorts", "render_node"]


@dataclass(frozen=True, kw_only=True)
class NatsPorts:
    """The ports of each node: MQTT for devices, NATS clients for the service, and between the nodes."""

    mqtt: int = 8883
    client: int = 4222
    cluster: int = 6222


def render_node(
    hosts: Sequence[str],
    index: int,
    *,
    folder: str,
    listen: str,
    ports: NatsPorts,
    auth_user: str,
    auth_issuer: str,
    cluster_password: str,
) -> str:
    """The text of one node's configuration file, as JSON, which nats-server reads.

    Args:
        hosts: the names of all nodes.
        index: which of them it is for.
        folder: where the node's files are (``server.pem``, ``server.key``, ``ca.pem``) and its store goes.
        listen: the address to listen on.
        ports: of each node.
        auth_user: public nkey with which the auth callout connects.
        auth_issuer: public nkey that signs its answers.
        cluster_password: among the nodes.
    """
    tls = {"cert_file": f"{folder}/server.pem", "key_file": f"{folder}/server.key", "ca_file": f"{folder}/ca.pem"}
    text: dict[str, Any] = {
        "server_name": f"wheeltapper-{index + 1}",
        "host": listen,
        "port": ports.client,
        "tls": {**tls, "timeout": 10},
        "max_payload": 1024 * 1024,
        "max_pending": 64 * 1024 * 1024,
        "max_connections": 65536,
        "jetstream": {
            "store_dir": f"{folder}/jetstream",
            "max_memory_store": 16 * 1024 * 1024,
            "max_file_store": 4 * 1024 * 1024 * 1024,
        },
        "accounts": {
            FLEET_ACCOUNT: {"jetstream": "enabled", "mappings": dict(SUBJECT_MAPPINGS)},
            AUTH_ACCOUNT: {"users": [{"nkey": auth_user}]},
        },
        "system_account": AUTH_ACCOUNT,
        "authorization": {
            "timeout": 4,
            "auth_callout": {"issuer": auth_issuer, "account": AUTH_ACCOUNT, "auth_users": [auth_user]},
        },
        "mqtt": {"host": listen, "port": ports.mqtt, "tls": {**tls, "verify": True, "timeout": 10}},
    }
    if len(hosts) > 1:
        text["mqtt"]["stream_replicas"] = min(3, len(hosts))
        text["cluster"] = _cluster(hosts, index, listen, ports.cluster, cluster_password, tls)
    return json.dumps(text, indent=1) + "\n"


def _cluster(
    hosts: Sequence[str], index: int, listen: str, port: int, password: str, tls: dict[str, str]
) -> dict[str, Any]:
    """How a node meets the others."""
    others = [host for number, host in enumerate(hosts) if number != index]
    return {
        "name": "wheeltapper",
        "host": listen,
        "port": port,
        "authorization": {"user": "node", "password": password, "timeout": 5},
        "routes": [f"nats-route://node:{password}@{_in_url(host)}:{port}" for host in others],
        "tls": {**tls, "verify": True, "timeout": 10},
    }


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
