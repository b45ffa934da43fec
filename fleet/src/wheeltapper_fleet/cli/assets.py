"""``wheeltapper asset``: sites, machines, components, measuring points, and what measures them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import fail, format_time, open_client, print_json, print_result, print_table

__all__ = ["asset_app"]

asset_app = typer.Typer(help="Assets: sites, machines, components, measuring points.", no_args_is_help=True)


@asset_app.command("import")
def asset_import(
    file: Annotated[Path, typer.Argument(help="A .csv, .yaml or .yml file; - reads CSV from standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Create the assets of a file, or change those that differ. Nothing is removed."""
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.assets.files import in_slices
        from wheeltapper_fleet.assets.schemas import MAX_IMPORT

        items = _read(file)
        if dry_run and len(items) > MAX_IMPORT:
            fail("asset.file", f"a dry run takes at most {MAX_IMPORT} assets; the file has {len(items)}", 2)
        done: dict[str, Any] = {"created": [], "changed": [], "mapped": [], "unchanged": 0, "dry_run": dry_run}
        for some in in_slices(items, MAX_IMPORT):
            answer = client.call("POST", "/assets/import", {"assets": some, "dry_run": dry_run})
            for name in ("created", "changed", "mapped", "unchanged"):
                done[name] += answer[name]
    said = f"{len(done['created'])} created, {len(done['changed'])} changed, {done['unchanged']} as they were"
    said += f", {len(done['mapped'])} mapped"
    print_result(done, said + (" (dry run: nothing was changed)" if dry_run else ""), as_json)


@asset_app.command("list")
def asset_list(
    within: Annotated[str | None, typer.Option(help="Only this asset and what belongs to it.")] = None,
    kind: Annotated[str | None, typer.Option(help="site, machine, component or point.")] = None,
    device: Annotated[str | None, typer.Option(help="Only points that this device measures or measured.")] = None,
    retired: Annotated[bool, typer.Option("--retired", help="Also those that are retired.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List assets, by id."""
    query: dict[str, Any] = {"within": within, "kind": kind, "device": device, "retired": retired}
    with open_client(url, token_file, data_dir) as client:
        found = list(client.items("/assets", {name: value for name, value in query.items() if value is not None}))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["id"],
            each["kind"],
            each["parent"],
            each["name"] or None,
            each["criticality"],
            _since(each["retired_at"]),
        )
        for each in found
    ]
    print_table(("ASSET", "KIND", "BELONGS TO", "NAME", "CRITICALITY", "RETIRED"), rows, "no asset yet")


@asset_app.command("show")
def asset_show(
    asset: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show one asset: what belongs to it, what measures it, its bearing's frequencies."""
    with open_client(url, token_file, data_dir) as client:
        found = client.call("GET", f"/assets/{asset}")
    if as_json:
        print_json(found)
        return
    rows: list[tuple[object, object]] = [(name, found[name]) for name in ("kind", "parent", "criticality", "version")]
    rows += [("name", found["name"] or None), ("retired", _since(found["retired_at"]))]
    rows += [("below it", ", ".join(found["children"]) or None)]
    effective = found["effective"]
    rows += [(name, _said(effective[name])) for name in ("bearing", "speed", "iso20816") if effective[name]]
    for name, order in found["orders"].items():
        hertz = found["frequencies_hz"].get(name)
        rows.append((name.replace("_", " "), f"{order:.3f} x" + (f" = {hertz:.2f} Hz" if hertz else "")))
    for each in found["mappings"]:
        until = format_time(each["to_at"]) or "now"
        source = f"{each['device']}/{each['pipeline']} channel {each['channel']}"
        rows.append(("measured by", f"{source}, {format_time(each['from_at'])} to {until}"))
    print_table((found["id"], ""), rows, "")


@asset_app.command("map")
def asset_map(
    point: str,
    device: str,
    pipeline: Annotated[str, typer.Option(help="Which sensor stream.")] = "main",
    channel: Annotated[str, typer.Option(help="Which of its channels; * is all.")] = "*",
    replace: Annotated[
        bool, typer.Option("--replace", help="End what measured the point: the gateway is new.")
    ] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say which device measures a point from now on."""
    body = {"device": device, "pipeline": pipeline, "channel": channel, "replace": replace}
    with open_client(url, token_file, data_dir) as client:
        found = client.call("POST", f"/assets/{point}/mappings", body)
    print_result(found, f"{point} is measured by {device}/{pipeline}, channel {channel}", as_json)


@asset_app.command("retire")
def asset_retire(
    asset: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Retire an asset with all below it. Its history stays."""
    with open_client(url, token_file, data_dir) as client:
        version = client.call("GET", f"/assets/{asset}")["version"]
        found = client.call("POST", f"/assets/{asset}/retire", {"expected_version": version})
    print_result(found, f"{asset} is retired", as_json)


@asset_app.command("delete")
def asset_delete(
    asset: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Remove an asset that was made by mistake; refused where it has history."""
    with open_client(url, token_file, data_dir) as client:
        version = client.call("GET", f"/assets/{asset}")["version"]
        client.call("POST", f"/assets/{asset}/delete", {"expected_version": version})
    print_result({"id": asset, "deleted": True}, f"{asset} is removed", as_json)


def _read(file: Path) -> list[dict[str, Any]]:
    """The items of a file of assets."""
    from wheeltapper_fleet.assets.files import from_csv, from_tree
    from wheeltapper_fleet.ground.errors import FleetError

    try:
        text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FleetError("asset.file", f"{file} is not UTF-8: {error}") from error
    if file.suffix not in {".yaml", ".yml"}:
        return from_csv(text)
    import yaml

    try:
        return from_tree(yaml.safe_load(text))
    except (yaml.YAMLError, RecursionError) as error:
        raise FleetError("asset.file", f"{file} is no YAML: {error}") from error


def _since(at: float | None) -> str | None:
    return format_time(at)


def _said(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, ""))
