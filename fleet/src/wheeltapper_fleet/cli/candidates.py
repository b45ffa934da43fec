"""``wheeltapper candidate``: what runs made, before a person signs it as a release or rejects it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.releases import tested_here
from wheeltapper_fleet.cli.support import format_time, open_client, print_json, print_result, print_table, printable

__all__ = ["candidate_app"]

candidate_app = typer.Typer(help="Candidates: sign what a run made as a release, or reject it.", no_args_is_help=True)


@candidate_app.command("list")
def candidate_list(
    state: Annotated[str | None, typer.Option(help="Only WAITING, APPROVED, REJECTED or EXPIRED.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List candidates, newest first."""
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.client.policy_calls import candidates

        found = candidates(client, state, model)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["id"],
            each["model"],
            each["state"],
            format_time(each["made_at"]),
            each["dataset"],
            each["policy"] or None,
            each["release"],
            each["decided_by"],
        )
        for each in found
    ]
    columns = ("CANDIDATE", "MODEL", "STATE", "MADE", "DATASET", "POLICY", "RELEASE", "DECIDED BY")
    print_table(columns, rows, "no candidate yet")


@candidate_app.command("show")
def candidate_show(
    candidate: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show a candidate: what it was trained on, why, and what its gates measured."""
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.client.policy_calls import candidate as get

        found = get(client, candidate)
    if as_json:
        print_json(found)
        return
    why = f"policy {found['policy']}, cycle {found['cycle']}" if found["policy"] else "a person"
    decided = f" as release {found['release']}" if found["release"] else ""
    decided += f" by {found['decided_by']}" if found["decided_by"] else ""
    for line in (
        f"candidate {found['id']} of {found['model']}: {found['state']}{decided}",
        f"run {found['run']} on {found['dataset']}, asked for by {why}",
        *(f"warning: {warning}" for warning in found["warnings"]),
    ):
        typer.echo(printable(line))
    rows = [
        (gate["name"], f"{gate['value']:.4g}", f"{gate['limit']:.4g}", gate.get("detail") or None)
        for gate in found["gates"]
    ]
    print_table(("GATE", "VALUE", "LIMIT", "DETAIL"), rows, "no gates")


@candidate_app.command("approve")
def candidate_approve(
    candidate: str,
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
    why: Annotated[str, typer.Option(help="The reason, for the record.")] = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a candidate's bundle, test it, sign it here as the next release, and publish it. Its policy goes on."""

    def test(bundle: Path) -> None:
        if not no_self_test:
            tested_here(bundle, agent or [])

    with open_client(url, token_file, data_dir) as client, tempfile.TemporaryDirectory() as folder:
        from wheeltapper_fleet.client.policy_calls import publish_candidate

        bundle = Path(folder, "bundle")
        made = publish_candidate(client, candidate, key, bundle, test=test, rollback_floor=rollback_floor, why=why)
    print_result(made, f"{candidate} is release {made['release']} of {made['model']}", as_json)


@candidate_app.command("reject")
def candidate_reject(
    candidate: str,
    why: Annotated[str, typer.Option(help="The reason, for the record.")] = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Reject a candidate. Its policy cools down."""
    with open_client(url, token_file, data_dir) as client:
        from wheeltapper_fleet.client.policy_calls import reject_candidate

        found = reject_candidate(client, candidate, why)
    print_result(found, f"{candidate} is rejected", as_json)
