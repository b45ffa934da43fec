"""``wheeltapper keys``: create the keys of the trust roles. Needs no running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wheeltapper_fleet.cli.options import AsJson
from wheeltapper_fleet.cli.support import failures, print_result

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
