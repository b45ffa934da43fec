"""``wheeltapper release``: publish, list and verify releases, and say which one is the default."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from wheeltapper_fleet.cli.aliases import alias_app
from wheeltapper_fleet.cli.default_releases import default_app
from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.promotions import promotions_app, release_promote, rule_app
from wheeltapper_fleet.cli.support import (
    BAD_INPUT,
    fail,
    format_time,
    open_client,
    print_json,
    print_result,
    print_table,
)

__all__ = ["release_app", "tested_here"]

release_app = typer.Typer(help="Releases: publish, list, verify; default releases and aliases.", no_args_is_help=True)
release_app.add_typer(default_app, name="default")
release_app.add_typer(alias_app, name="alias")
release_app.add_typer(rule_app, name="rule")
release_app.add_typer(promotions_app, name="promotions")
release_app.command("promote")(release_promote)


@release_app.command("publish")
def release_publish(
    bundle: Annotated[Path, typer.Option(help="Folder with manifest.json and its files.")],
    key: Annotated[str, typer.Option(help="The team's key: a PEM file or a securesystemslib URI. It stays here.")],
    rollback_floor: Annotated[
        int | None, typer.Option(min=1, help="Devices that commit it never go below this release again.")
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(help="A wheeltapper-agent of another environment that tests the bundle too; repeatable."),
    ] = None,
    no_self_test: Annotated[
        bool, typer.Option("--no-self-test", help="Sign without testing the bundle on this computer.")
    ] = False,
    start_campaign: Annotated[
        bool, typer.Option("--start-campaign", help="Then take it to every device at once, in one wave.")
    ] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Sign a bundle here as the next release of its model, and publish it.

    The bundle is first tested as a device tests it, by the agent that is installed here; where there is none, a
    line on standard error says so.
    """
    with open_client(url, token_file, data_dir) as client:
        self_tested = not no_self_test and tested_here(bundle, agent or [])
        made = client.publish_bundle(bundle, key, rollback_floor)
        made["self_tested"] = self_tested
        text = f"{made['model']} release {made['release']} is published"
        if start_campaign:
            campaign = client.create_campaign({"model": made["model"], "release": made["release"]})
            client.act(campaign["id"], "start", campaign["version"])
            made["campaign"] = campaign["id"]
            text += f"; campaign {campaign['id']} takes it to the devices"
    print_result(made, text, as_json)


def tested_here(bundle: Path, agents: list[str]) -> bool:
    """Refuse what no device would take, as `wheeltapper bundle check` does; False: no agent is installed here."""
    from wheeltapper_fleet.training.bundle_check import self_tested
    from wheeltapper_fleet.training.desk_agent import DeskAgent, has_agent

    if not agents and not has_agent():
        typer.echo("note: not self-tested, because no wheeltapper-agent is installed here; devices test it", err=True)
        return False
    self_tested(bundle, [DeskAgent(command) for command in ("", *agents)]).refuse()
    return True


@release_app.command("list")
def release_list(
    url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List all releases."""
    with open_client(url, token_file, data_dir) as client:
        found = client.releases()
    if as_json:
        print_json(found)
        return
    rows = [
        (item["model"], item["release"], format_time(item["published_at"]), item["published_by"], item["sha256"][:12])
        for item in found
    ]
    print_table(("MODEL", "RELEASE", "PUBLISHED", "BY", "SHA-256"), rows, "no release yet")


@release_app.command("verify")
def release_verify(
    model: str,
    release: int,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Verify a release as a device would, down to every byte."""
    with open_client(url, token_file, data_dir) as client:
        found = client.verify_release(model, release)
    print_result(found, f"{model} release {release} verifies: {found['files']} files, {found['length']} bytes", as_json)


@release_app.command("fetch")
def release_fetch(
    model: str,
    release: int,
    out: Annotated[Path, typer.Option(help="Folder for the bundle; it must not be there.")],
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the bundle of a release and check every byte, e.g. to run it here or to compare another model with it."""
    with open_client(url, token_file, data_dir) as client:
        client.fetch_release_bundle(model, release, out)
    print_result({"model": model, "release": release, "bundle": str(out)}, f"bundle: {out}", as_json)


@release_app.command("quality")
def release_quality(
    model: str,
    release: int,
    days: Annotated[float, typer.Option(min=0.01, max=3650, help="Of so many days.")] = 7.0,
    device: Annotated[str | None, typer.Option(help="Only by what this device reported.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Estimate the quality of a release without labels, by the scores that devices report."""
    until = time.time()
    query: dict[str, Any] = {"since": max(0.0, until - 86_400.0 * days), "until": until}
    if device is not None:
        query["device"] = device
    with open_client(url, token_file, data_dir) as client:
        found = client.quality(model, release, **query)
    if as_json:
        print_json(found)
        return
    others = "" if found["running"] is None else f" of {found['running']} pipelines that run it"
    typer.echo(f"{found['windows']} windows of {found['devices']} devices{others}, {found['reports']} reports")
    if found["left_out"]:
        typer.echo(f"{found['left_out']} reports were not added up")
    rows = [
        (
            each["name"],
            *(None if each[name] is None else f"{each[name]:.4g}" for name in ("value", "low", "high", "reference")),
            each["why"] or found["unit"] or None,
        )
        for each in found["figures"]
    ]
    print_table(("FIGURE", "ESTIMATED", "LEAST", "MOST", "HELD OUT", ""), rows, "nothing is estimated")


@release_app.command("compare")
def release_compare(
    model: str,
    one: Annotated[int, typer.Argument(min=1, help="The number of a release.")],
    other: Annotated[int, typer.Argument(min=1, help="The number of another one.")],
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Compare two releases: gates, what of manifest and lineage differs, sizes, what people found of their alerts."""
    with open_client(url, token_file, data_dir) as client:
        found = client.compare_releases(model, one, other)
    if as_json:
        print_json(found)
        return
    sides = ("one", "other")
    headings = (f"RELEASE {one}", f"RELEASE {other}")
    gates = [(each["name"], *(_gate(each[side]) for side in sides)) for each in found["gates"]]
    print_table(("GATE", *headings), gates, "neither has a gate")
    lines = [(each["path"], each["one"], each["other"]) for each in (*found["lineage"], *found["differences"])]
    lines += [("feature", name, None) for name in found["features_only_one"]]
    lines += [("feature", None, name) for name in found["features_only_other"]]
    for name in ("bytes", "model_bytes"):
        lines.append((name, found[f"{name}_one"], found[f"{name}_other"]))
    lines.append(("precision of alerts", _field(found["field_one"]), _field(found["field_other"])))
    print_table(("DIFFERENCE", *headings), lines, "they differ in nothing")
    if found["more_differences"]:
        typer.echo(f"and {found['more_differences']} more")


@release_app.command("card")
def release_card(
    model: str,
    release: int,
    form: Annotated[str, typer.Option("--format", help="md or html.")] = "md",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print the model card of a release, written from records only; what nobody measured says so."""
    if form not in ("md", "html"):
        fail("cli.format", f"{form!r} is no form of a card; there are md and html", BAD_INPUT)
    with open_client(url, token_file, data_dir) as client:
        found = client.release_card(model, release)
    if as_json:
        print_json(found)
        return
    from wheeltapper_fleet.lineage.card_text import as_html, as_markdown

    typer.echo(as_html(found) if form == "html" else as_markdown(found))


def _gate(said: dict[str, Any] | None) -> str | None:
    if said is None:
        return None
    return f"{said['value']:.4g} (limit {said['limit']:.4g}{'' if said['passed'] else ', failed'})"


def _field(said: dict[str, Any]) -> str:
    if said["precision"] is None:
        return "not measured"
    true, false = said["true_faults"], said["false_alarms"]
    interval = f"{said['precision_low']:.2f} to {said['precision_high']:.2f}"
    return f"{said['precision']:.2f} ({interval}; {true} faults, {false} false alarms)"
