"""``wheeltapper keys``: the keys of the trust roles, and when what they signed ends. Needs no running service."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from wheeltapper_fleet.cli.options import AsJson
from wheeltapper_fleet.cli.support import failures, format_time, print_json, print_result, print_table

__all__ = ["keys_app"]

keys_app = typer.Typer(help="The keys that releases and assignments are signed with.", no_args_is_help=True)


@keys_app.command("init")
def keys_init(
    keys_dir: Annotated[Path, typer.Option(help="For the offline keys; keep it off the service's machine.")],
    data_dir: Annotated[Path, typer.Option(help="The service's folder.")] = Path("wheeltapper-data"),
    model: Annotated[list[str] | None, typer.Option(help="A model that releases may be made of; repeatable.")] = None,
    threshold: Annotated[int, typer.Option(min=1, max=9, help="How many root and targets keys must sign.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Make every key, the devices' CA and the first metadata."""
    models = model or ["bearing-anomaly"]
    with failures():
        from wheeltapper_fleet.trust.keys import init_keys

        init_keys(keys_dir, data_dir, models, threshold)
    print_result(
        {"keys_dir": str(keys_dir), "data_dir": str(data_dir), "models": models, "threshold": threshold},
        f"keys for {', '.join(models)}: offline keys in {keys_dir} (keep them safe), the service's in {data_dir}",
        as_json,
    )


@keys_app.command("status")
def keys_status(
    data_dir: Annotated[Path, typer.Option(help="The service's folder.")] = Path("wheeltapper-data"),
    as_json: AsJson = False,
) -> None:
    """Show every role and certificate of the service: its keys, when it ends, and what to do."""
    with failures():
        from wheeltapper_fleet.trust.ca import FleetCA
        from wheeltapper_fleet.trust.expiry import view
        from wheeltapper_fleet.trust.repository import Repository

        repository, now = Repository.open(data_dir, time.time), time.time()
        lives = [*repository.lives(), *FleetCA(data_dir / "ca", time.time).lives()]
        found = [view(life, now) for life in lives]
        keys, threshold = repository.director()  # it signs assignments, which end by themselves, and no metadata
        found.append({**dict.fromkeys(found[0]), "name": "director", "keys": keys, "threshold": threshold})
        found[-1] |= {"detail": "", "state": "ok", "renewed_by": "service"}
    if as_json:
        print_json(found)
        return
    rows = [
        (
            item["name"],
            f"{item['threshold']} of {item['keys']}" if item["keys"] is not None else None,
            format_time(item["expires_at"]),
            item["days_left"],
            item["todo"] or "nothing",
        )
        for item in found
    ]
    print_table(("NAME", "KEYS", "ENDS", "DAYS LEFT", "TO DO"), rows, "")


@keys_app.command("renew")
def keys_renew(
    keys_dir: Annotated[Path, typer.Option(help="The folder with the offline keys.")],
    data_dir: Annotated[Path, typer.Option(help="The service's folder.")] = Path("wheeltapper-data"),
    role: Annotated[
        list[str] | None, typer.Option(help="root, targets or a model; repeatable [default: all of them].")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sign root, targets and teams' metadata anew, for another year. The service may run meanwhile."""
    with failures():
        from wheeltapper_fleet.trust.ceremony import renew_roles

        renewed = renew_roles(keys_dir, data_dir, role or [], clock=time.time)
    print_result({"renewed": renewed}, f"renewed for a year: {', '.join(renewed)}", as_json)


@keys_app.command("add-model")
def keys_add_model(
    model: Annotated[str, typer.Argument(help="The new model's name.")],
    keys_dir: Annotated[Path, typer.Option(help="The folder with the offline keys; receives the team's key.")],
    data_dir: Annotated[Path, typer.Option(help="The service's folder.")] = Path("wheeltapper-data"),
    as_json: AsJson = False,
) -> None:
    """Let releases be made of one more model. The service may run meanwhile."""
    with failures():
        from wheeltapper_fleet.trust.ceremony import add_model

        key = add_model(keys_dir, data_dir, model, clock=time.time)
    print_result(
        {"model": model, "key": str(key)}, f"releases of {model} can be published now; its team's key is {key}", as_json
    )
