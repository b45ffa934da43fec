"""``wheeltapper simulate``: many devices against a running fleet, to try its size and its ways to fail."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import BAD_INPUT, DATA_DIR, fail, open_client, parse_tags, print_json, print_table

__all__ = ["simulate"]


def simulate(
    devices: Annotated[int, typer.Option(min=1, max=100_000, help="How many devices.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.0, help="For how long; Ctrl-C ends it early.")] = 60.0,
    faults: Annotated[Path | None, typer.Option(help="Fault table, TOML or JSON; see docs/simulator.md.")] = None,
    seed: Annotated[int, typer.Option(help="Who fails, and every other random number, follows from it.")] = 1,
    rate: Annotated[
        float, typer.Option(min=0.0, max=1000.0, help="Telemetry records a second of each pipeline.")
    ] = 0.1,
    batch_seconds: Annotated[
        float, typer.Option(min=0.1, max=3600.0, help="How long records are gathered for a message.")
    ] = 10.0,
    update_seconds: Annotated[
        float, typer.Option(min=0.0, max=86_400.0, help="How long an update lasts on a device, on average.")
    ] = 10.0,
    pipeline: Annotated[list[str] | None, typer.Option(help="A pipeline; repeatable [default: main].")] = None,
    prefix: Annotated[str, typer.Option(help="What the devices' names begin with.")] = "sim",
    tag: Annotated[list[str] | None, typer.Option(help="key=value of new devices; repeatable.")] = None,
    state_dir: Annotated[Path, typer.Option(help="Where the devices' identities are kept.")] = Path("wheeltapper-sim"),
    server: Annotated[
        str | None, typer.Option(help="The devices' API, https://host:port [default: from the data folder].")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Simulate many devices: real connections, signatures, reports and records, and the faults of a table."""
    tags = parse_tags(tag or [])
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.sim.behaviour import Behaviour
        from wheeltapper_fleet.sim.run import Order, load_faults
        from wheeltapper_fleet.sim.run import simulate as run
        from wheeltapper_protocols.wire.ids import name

        names = tuple(dict.fromkeys(name(text, "pipeline") for text in pipeline or ["main"]))
        api, mqtt_port = (server, 0) if server else _service(data_dir, url)
        order = Order(
            devices=devices,
            seconds=seconds,
            behaviour=Behaviour(
                seed=seed,
                records_per_second=rate,
                batch_seconds=batch_seconds,
                update_seconds=update_seconds,
                pipelines=names,
            ),
            faults=load_faults(faults),
            state_dir=state_dir,
            server=api,
            mqtt_port=mqtt_port,
            prefix=name(f"{prefix}-00000", "device id").removesuffix("-00000"),
            tags=tags,
        )
        found = run(order, client, lambda text: typer.echo(text, err=True))
    if as_json:
        print_json(found)
    else:
        print_table(("SIMULATED", ""), [(key.replace("_", " "), _text(value)) for key, value in found.items()], "")


def _service(data_dir: Path | None, url: str | None) -> tuple[str, int]:
    """The devices' API and the MQTT port of the service of this machine."""
    if data_dir is None and (url or os.environ.get("WHEELTAPPER_URL")):
        fail(
            "sim.server", "with --url also give --server, the devices' API of that fleet: https://host:port", BAD_INPUT
        )
    folder = data_dir or Path(DATA_DIR)
    try:
        served = json.loads((folder / "serve.json").read_text(encoding="utf-8"))
        return f"https://127.0.0.1:{int(served['device_port'])}", int(served["mqtt_port"])
    except (OSError, ValueError, KeyError):
        fail("sim.server", f"no fleet service runs on {folder}; give --server https://host:port", BAD_INPUT)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(each)}" for key, each in value.items()) or "none"
    return "–" if value is None else str(value)
