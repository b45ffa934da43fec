"""The configuration of Mosquitto 2: mutual TLS, an ACL by pattern, a certificate revocation list, limits. Pure.

Invariants:
    * The user name and the client id are the certificate's common name (``use_identity_as_username``,
      ``use_username_as_clientid``), so no device takes over another's session.
    * A device may publish below its own ``up/`` and subscribe below its own ``down/``, nothing else.
    * A process of the service is a user whose name no device can have.

Source: mosquitto.conf(5), "use_identity_as_username", "acl_file", "crlfile"; Mosquitto reads certificates, ACL and CRL
again at a SIGHUP.
"""

from __future__ import annotations

from collections.abc import Sequence

from wheeltapper_protocols.wire.topics import ALL_UP_FILTER

__all__ = ["render_acl", "render_mosquitto"]


def render_mosquitto(folder: str, listen: str, port: int, user: str) -> str:
    """The text of ``mosquitto.conf``.

    Args:
        folder: where its files are (``server.pem``, ``server.key``, ``ca.pem``, ``crl.pem``, ``acl``), and its store.
        listen: the address to listen on; empty for all.
        port: of MQTT over TLS.
        user: the user that Mosquitto becomes when root starts it.
    """
    return f"""# Mosquitto for a Wheeltapper fleet. Start it with: mosquitto -c {folder}/mosquitto.conf
user {user}
pid_file {folder}/mosquitto.pid
persistence true
persistence_location {folder}/
autosave_interval 60
log_dest stderr
log_type error
log_type warning
log_type notice

listener {port} {listen}
cafile {folder}/ca.pem
certfile {folder}/server.pem
keyfile {folder}/server.key
crlfile {folder}/crl.pem
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
acl_file {folder}/acl

max_packet_size 1114112
max_keepalive 600
max_inflight_messages 100
max_queued_messages 20000
set_tcp_nodelay true
""".replace(f"listener {port} \n", f"listener {port}\n")


def render_acl(processes: Sequence[str]) -> str:
    """The text of the ACL.

    Args:
        processes: the common names of the service's processes, e.g. ``fleet.ingest``.
    """
    lines = ["# %u is the common name of the certificate that a client shows."]
    for name in processes:
        lines += [f"user {name}", f"topic read {ALL_UP_FILTER}", "topic write wt/v1/+/down/+"]
    lines += ["", "pattern write wt/v1/%u/up/+", "pattern read wt/v1/%u/down/+", ""]
    return "\n".join(lines)
