"""``wheeltapper broker``: the configuration of brokers on machines of their own. Needs no running service."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from wheeltapper_fleet.cli.options import AsJson
from wheeltapper_fleet.cli.support import failures, print_result

__all__ = ["broker_app"]

broker_app = typer.Typer(help="Brokers on machines of their own.", no_args_is_help=True)
_config_app = typer.Typer(help="Write a broker's complete configuration.", no_args_is_help=True)
broker_app.add_typer(_config_app, name="config")

_Out = Annotated[Path, typer.Option(help="The folder to write; what is in it is replaced.")]
_Data = Annotated[Path, typer.Option(help="The service's folder.")]
_At = Annotated[str, typer.Option(help="The folder of these files on the broker's machine [default: the one written].")]


@_config_app.command("nats")
def broker_config_nats(
    out: _Out,
    node: Annotated[list[str], typer.Option(help="A node's host name or address; once, or three times.")],
    data_dir: _Data = Path("wheeltapper-data"),
    mqtt_port: Annotated[int, typer.Option(min=1, max=65535, help="For devices.")] = 8883,
    client_port: Annotated[int, typer.Option(min=1, max=65535, help="For the service.")] = 4222,
    cluster_port: Annotated[int, typer.Option(min=1, max=65535, help="Between the nodes.")] = 6222,
    listen: Annotated[str, typer.Option(help="Address to listen on; 'host': each node its own.")] = "0.0.0.0",  # noqa: S104  # devices come from other machines
    at: _At = "",
    as_json: AsJson = False,
) -> None:
    """Write nats-server's configuration: one node, or a cluster, each in a folder named after its host."""
    with failures():
        from wheeltapper_fleet.broker.configure import configure_nats
        from wheeltapper_fleet.broker.nats_cluster import NatsPorts
        from wheeltapper_fleet.trust.ca import FleetCA

        ports = NatsPorts(mqtt=mqtt_port, client=client_port, cluster=cluster_port)
        ca = FleetCA(data_dir / "ca", time.time)
        settings = configure_nats(out, data_dir, ca, node, listen=listen, ports=ports, at=at)
    _say(out, settings, "each node: nats-server -c <folder>/nats.json", as_json)


@_config_app.command("mosquitto")
def broker_config_mosquitto(
    out: _Out,
    host: Annotated[str, typer.Option(help="The broker's host name or address.")],
    data_dir: _Data = Path("wheeltapper-data"),
    mqtt_port: Annotated[int, typer.Option(min=1, max=65535, help="For devices and the service.")] = 8883,
    listen: Annotated[str, typer.Option(help="Address to listen on [default: all].")] = "",
    user: Annotated[str, typer.Option(help="The user that Mosquitto becomes when root starts it.")] = "mosquitto",
    process: Annotated[
        list[str] | None, typer.Option(help="Name of a process of the service; repeatable [default: ingest].")
    ] = None,
    at: _At = "",
    as_json: AsJson = False,
) -> None:
    """Write Mosquitto's configuration: listener, certificates, ACL, revocation list."""
    with failures():
        from wheeltapper_fleet.broker.configure import configure_mosquitto
        from wheeltapper_fleet.trust.ca import FleetCA

        ca = FleetCA(data_dir / "ca", time.time)
        names = process or ["ingest"]
        settings = configure_mosquitto(out, ca, host, listen=listen, port=mqtt_port, user=user, processes=names, at=at)
    _say(out, settings, f"mosquitto -c {at or out}/mosquitto.conf", as_json)


def _say(out: Path, settings: Path, start: str, as_json: bool) -> None:
    text = f"written to {out}. Start the broker ({start}); put {settings} into the configuration of `wheeltapper serve`"
    print_result({"folder": str(out), "settings": str(settings), "start": start}, text, as_json)
