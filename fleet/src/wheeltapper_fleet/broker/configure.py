"""Writes the complete configuration of a broker on machines of its own, which starts as it is.

Invariants:
    * Private keys have mode 0600. The auth callout's stay in the data folder; the brokers get the public ones.
    * Written anew, the files keep the keys and passwords that they had: brokers can be renewed one by one.

What this module does not do: the text of the configurations (:mod:`nats_cluster`, :mod:`mosquitto`), start brokers.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wheeltapper_fleet.broker.auth_callout import AuthKeys, public_key
from wheeltapper_fleet.broker.mosquitto import render_acl, render_mosquitto
from wheeltapper_fleet.broker.nats_cluster import NatsPorts, render_node
from wheeltapper_fleet.ground import files
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.ground.names import fleet_name
from wheeltapper_fleet.trust.ca import FleetCA, TlsFiles

__all__ = ["CRL_SECONDS", "auth_keys", "configure_mosquitto", "configure_nats"]

CRL_SECONDS: Final = 30 * 86_400.0
"""How long a revocation list is good. The service writes it anew each day."""
_KEYS_FILE: Final = "broker-keys.json"


@dataclass(frozen=True)
class _Keys:
    """The secrets of a NATS cluster."""

    auth: AuthKeys
    cluster_password: str


def auth_keys(data_dir: Path) -> AuthKeys:
    """The keys of the auth callout that :func:`configure_nats` has made.

    Raises:
        FleetError: ``broker.not_configured``.
    """
    found = _read_keys(data_dir)
    if found is None:
        raise FleetError(
            "broker.not_configured",
            f"there is no {data_dir / _KEYS_FILE}: write the files of the brokers with"
            " `wheeltapper broker config nats --out DIR --node HOST`",
            409,
        )
    return found.auth


def configure_nats(
    out: Path, data_dir: Path, ca: FleetCA, hosts: Sequence[str], *, listen: str, ports: NatsPorts, at: str = ""
) -> Path:
    """Write a folder with ``nats.json``, certificate and key for each node, and ``broker.toml`` for the service.

    Args:
        out: where the folders are written, each named after its host.
        data_dir: the service's data folder.
        ca: certifies the nodes.
        hosts: at which devices, the service and the other nodes reach each node: one, or three.
        listen: the address that nodes listen on; ``host``: each its own.
        ports: of each node.
        at: the folder of these files on a node's machine; empty: where they are written.

    Returns:
        ``broker.toml``.

    Raises:
        FleetError: ``broker.hosts``.
    """
    _check_hosts(hosts)
    keys = _read_keys(data_dir) or _make_keys(data_dir)
    for index, host in enumerate(hosts):
        folder = _write_tls(out / host, ca.broker_files(host))
        text = render_node(
            hosts,
            index,
            folder=at or str(folder.resolve()),
            listen=host if listen == "host" else listen,
            ports=ports,
            auth_user=public_key(keys.auth.user),
            auth_issuer=public_key(keys.auth.issuer),
            cluster_password=keys.cluster_password,
        )
        files.write_atomic(folder / "nats.json", text.encode(), files.PRIVATE)
    lines = [
        "[broker]",
        'kind = "nats"',
        f"addresses = {json.dumps([f'{_in_url(host)}:{ports.mqtt}' for host in hosts])}",
        f"client_urls = {json.dumps([f'tls://{_in_url(host)}:{ports.client}' for host in hosts])}",
    ]
    return _write_settings(out, lines)


def configure_mosquitto(
    out: Path,
    ca: FleetCA,
    host: str,
    *,
    listen: str,
    port: int,
    user: str,
    processes: Sequence[str],
    revoked: Sequence[str] = (),
    at: str = "",
) -> Path:
    """Write ``mosquitto.conf`` and what it names into one folder, and ``broker.toml`` for the service.

    Args:
        out: the folder.
        ca: certifies the broker, and signs the revocation list.
        host: at which devices and the service reach it.
        listen: the address to listen on; empty: all.
        port: of MQTT over TLS.
        user: the user that Mosquitto becomes when root starts it; root makes the files its own.
        processes: the names of the service's processes, as they are given to ``serve --name``.
        revoked: serial numbers (hex) of revoked certificates.
        at: the folder of these files on the broker's machine; empty: where they are written.

    Returns:
        ``broker.toml``.

    Raises:
        FleetError: ``broker.hosts``, ``broker.user``.
    """
    _check_hosts([host])
    folder = _write_tls(out, ca.broker_files(host))
    place = at or str(folder.resolve())
    files.write_atomic(folder / "acl", render_acl([fleet_name(each) for each in processes]).encode(), 0o600)
    files.write_atomic(folder / "crl.pem", ca.revocation_list(revoked, CRL_SECONDS))
    files.write_atomic(folder / "mosquitto.conf", render_mosquitto(place, listen, port, user).encode())
    lines = [
        "[broker]",
        'kind = "mosquitto"',
        f"addresses = {json.dumps([f'{_in_url(host)}:{port}'])}",
        f"crl_file = {json.dumps(f'{place}/crl.pem')}",
        f"pid_file = {json.dumps(f'{place}/mosquitto.pid')}",
    ]
    settings = _write_settings(out, lines)
    if os.geteuid() == 0 and user != "root":
        try:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, user)
        except LookupError as error:
            raise FleetError(
                "broker.user", f"there is no user {user!r} here; name another one with --user", 400
            ) from error
    return settings


def _write_tls(folder: Path, tls: TlsFiles) -> Path:
    files.make_folder(folder, private=True)
    files.write_atomic(folder / "server.pem", tls.certificate.read_bytes())
    files.write_atomic(folder / "server.key", tls.key.read_bytes(), files.PRIVATE)
    files.write_atomic(folder / "ca.pem", tls.ca.read_bytes())
    return folder


def _write_settings(out: Path, lines: Sequence[str]) -> Path:
    """Write the service's own settings."""
    text = "# For the configuration of `wheeltapper serve`.\n" + "\n".join(lines) + "\n"
    files.write_atomic(out / "broker.toml", text.encode())
    return out / "broker.toml"


def _read_keys(data_dir: Path) -> _Keys | None:
    try:
        found = json.loads((data_dir / _KEYS_FILE).read_bytes())
        return _Keys(AuthKeys(found["user"].encode(), found["issuer"].encode()), found["cluster_password"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise FleetError(
            "broker.keys", f"{data_dir / _KEYS_FILE} cannot be read; restore it from your backup"
        ) from error


def _make_keys(data_dir: Path) -> _Keys:
    keys = _Keys(AuthKeys.new(), base64.b32encode(secrets.token_bytes(20)).decode().lower())
    values = {
        "user": keys.auth.user.decode(),
        "issuer": keys.auth.issuer.decode(),
        "cluster_password": keys.cluster_password,
    }
    files.write_atomic(data_dir / _KEYS_FILE, (json.dumps(values) + "\n").encode(), files.PRIVATE)
    return keys


def _check_hosts(hosts: Sequence[str]) -> None:
    if not hosts or len(set(hosts)) != len(hosts) or any(not host or "/" in host for host in hosts):
        raise FleetError("broker.hosts", "name each node once, by the host name or address at which it is reached", 400)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
