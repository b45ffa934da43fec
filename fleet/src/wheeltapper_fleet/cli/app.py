"""``wheeltapper``: the fleet's command line. Every command calls one function and prints its result.

Commands import what they need when they run, so that ``wheeltapper --help`` is quick and a command needs only its own
libraries.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from wheeltapper_fleet import __version__
from wheeltapper_fleet.cli.access import audit, token_app, who
from wheeltapper_fleet.cli.alerts import alerts_app
from wheeltapper_fleet.cli.assets import asset_app
from wheeltapper_fleet.cli.backups import backup_app
from wheeltapper_fleet.cli.brokers import broker_app
from wheeltapper_fleet.cli.bundles import bundle_app
from wheeltapper_fleet.cli.campaigns import campaign_app
from wheeltapper_fleet.cli.candidates import candidate_app
from wheeltapper_fleet.cli.cases import case_app
from wheeltapper_fleet.cli.configuration import config_app
from wheeltapper_fleet.cli.contexts import context_app, login
from wheeltapper_fleet.cli.datasets import dataset_app
from wheeltapper_fleet.cli.devices import device_app
from wheeltapper_fleet.cli.doctor import doctor
from wheeltapper_fleet.cli.exports import export
from wheeltapper_fleet.cli.history import history_app
from wheeltapper_fleet.cli.keys import keys_app
from wheeltapper_fleet.cli.lineage import lineage_app
from wheeltapper_fleet.cli.notify import notify_app
from wheeltapper_fleet.cli.options import AsJson
from wheeltapper_fleet.cli.policies import policy_app
from wheeltapper_fleet.cli.processes import processes
from wheeltapper_fleet.cli.releases import release_app
from wheeltapper_fleet.cli.runs import run_app
from wheeltapper_fleet.cli.simulate import simulate
from wheeltapper_fleet.cli.support import failures, print_result, run_guarded
from wheeltapper_fleet.cli.telemetry import device_features, device_history, device_records
from wheeltapper_fleet.cli.top import top
from wheeltapper_fleet.cli.train import train_app
from wheeltapper_fleet.cli.trainer import trainer
from wheeltapper_fleet.cli.why import device_why
from wheeltapper_fleet.demo.cli import demo

__all__ = ["app", "main"]

app = typer.Typer(
    name="wheeltapper",
    help="""Manage a fleet of edge devices that run models.

    Exit codes: 0 done; 1 the operation failed; 2 wrong usage or bad input; 130 ended by Ctrl-C. A failure is one line
    on standard error with its stable code.
    """,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
device_app.command("why")(device_why)
device_app.command("records")(device_records)
device_app.command("history")(device_history)
device_app.command("features")(device_features)
app.add_typer(keys_app, name="keys")
app.add_typer(device_app, name="device")
app.add_typer(release_app, name="release")
app.add_typer(lineage_app, name="lineage")
app.add_typer(campaign_app, name="campaign")
app.add_typer(asset_app, name="asset")
app.add_typer(alerts_app, name="alerts")
app.add_typer(case_app, name="case")
app.add_typer(notify_app, name="notify")
app.add_typer(train_app, name="train")
app.add_typer(run_app, name="run")
app.add_typer(dataset_app, name="dataset")
app.add_typer(policy_app, name="policy")
app.add_typer(candidate_app, name="candidate")
app.add_typer(bundle_app, name="bundle")
app.add_typer(backup_app, name="backup")
app.add_typer(history_app, name="history")
app.add_typer(broker_app, name="broker")
app.add_typer(token_app, name="token")
app.add_typer(config_app, name="config")
app.add_typer(context_app, name="context")


app.command()(demo)
app.command()(trainer)
app.command()(top)
app.command()(doctor)
app.command()(processes)
app.command()(export)
app.command()(simulate)
app.command()(login)
app.command()(who)
app.command()(audit)


def main() -> NoReturn:
    """Run the command line; the entry point of ``wheeltapper``."""
    run_guarded(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wheeltapper {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
    context: Annotated[
        str | None, typer.Option("--context", help="The fleet to speak to; see `wheeltapper context list`.")
    ] = None,
) -> None:
    if context is not None:
        os.environ["WHEELTAPPER_CONTEXT"] = context


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the version."""
    print_result({"version": __version__}, __version__, as_json)


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="TOML file; see docs/operations.md.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept [default: wheeltapper-data].")] = None,
    admin_host: Annotated[str | None, typer.Option(help="[default: 127.0.0.1]")] = None,
    admin_port: Annotated[int | None, typer.Option(help="[default: 8080; 0 picks a free one]")] = None,
    device_host: Annotated[str | None, typer.Option(help="[default: 127.0.0.1]")] = None,
    device_port: Annotated[int | None, typer.Option(help="[default: 8443]")] = None,
    mqtt_host: Annotated[str | None, typer.Option(help="[default: 127.0.0.1]")] = None,
    mqtt_port: Annotated[int | None, typer.Option(help="[default: 8883]")] = None,
    public_host: Annotated[
        list[str] | None, typer.Option(help="A name that devices reach this by; repeatable.")
    ] = None,
    role: Annotated[
        str | None, typer.Option(help="The part that this process is: all, api, ingest or engine [default: all].")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of this process, where several share a folder [default: role].")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL [default: SQLite in the data folder]")
    ] = None,
) -> None:
    """Run the fleet service until it is told to stop."""
    overrides = {
        "data_dir": data_dir,
        "admin_host": admin_host,
        "admin_port": admin_port,
        "device_host": device_host,
        "device_port": device_port,
        "mqtt_host": mqtt_host,
        "mqtt_port": mqtt_port,
        "public_hosts": public_host or None,
        "database_url": database_url,
        "role": role,
        "name": name,
    }
    with failures():
        from wheeltapper_fleet.config import load_config
        from wheeltapper_fleet.service import serve as run

        run(load_config(config, overrides, os.environ))
