"""``wheeltapper notify``: who is told of what, by signed webhook or by mail."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import format_time, open_client, print_json, print_result, print_table

__all__ = ["notify_app"]

notify_app = typer.Typer(help="Notifications: signed webhooks and mails.", no_args_is_help=True)


@notify_app.command("add")
def notify_add(
    target: Annotated[str, typer.Argument(help="A name for it.")],
    address: Annotated[str, typer.Argument(help="An https:// URL, or a mail address.")],
    event: Annotated[list[str] | None, typer.Option(help="Only of this, e.g. case.opened; repeatable.")] = None,
    min_severity: Annotated[str, typer.Option(help="normal, warning or critical.")] = "normal",
    site: Annotated[list[str] | None, typer.Option(help="Only of this site; repeatable.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only of this model; repeatable.")] = None,
    query: Annotated[str, typer.Option(help="Only where the device is one of this query.")] = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Tell a webhook or a mail address. A webhook's secret is shown this once."""
    kind = "webhook" if "://" in address else "mail"
    body: dict[str, Any] = {"id": target, "kind": kind, "address": address, "min_severity": min_severity}
    body |= {"events": event or [], "sites": site or [], "models": model or [], "query": query}
    with open_client(url, token_file, data_dir) as client:
        made = client.call("POST", "/notify-targets", body)
    said = f"{target} is told; it verifies with the secret {made['secret']}" if made["secret"] else f"{target} is told"
    print_result(made, said, as_json)


@notify_app.command("list")
def notify_list(
    url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List who is told of what, and how that goes."""
    with open_client(url, token_file, data_dir) as client:
        found = list(client.items("/notify-targets"))
    if as_json:
        print_json(found)
        return
    columns = ("TARGET", "ADDRESS", "OF", "LAST SENT", "FAILURES", "ERROR")
    rows = [
        (each["id"], each["address"], _rules(each), format_time(each["sent_at"]), each["failures"], each["error"])
        for each in found
    ]
    print_table(columns, rows, "nobody is told")


@notify_app.command("test")
def notify_test(
    target: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Send a test."""
    with open_client(url, token_file, data_dir) as client:
        client.call("POST", f"/notify-targets/{target}/test")
    said = f"a test goes to {target}; see notify sent --target {target}"
    print_result({"target": target, "testing": True}, said, as_json)


@notify_app.command("remove")
def notify_remove(
    target: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Tell somebody no more."""
    with open_client(url, token_file, data_dir) as client:
        client.call("POST", f"/notify-targets/{target}/delete")
    print_result({"target": target, "removed": True}, f"{target} is told no more", as_json)


@notify_app.command("sent")
def notify_sent(
    target: Annotated[str | None, typer.Option(help="Only to this target.")] = None,
    state: Annotated[str | None, typer.Option(help="waiting, sent or dead (given up).")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=1000)] = 50,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List what was told, newest first, and what could not be."""
    with open_client(url, token_file, data_dir) as client:
        found = client.call("GET", "/notifications", None, limit=limit, target=target, state=state)["items"]
    if as_json:
        print_json(found)
        return
    rows = [
        (each["id"], each["target"], each["state"], format_time(each["created_at"]), each["title"], each["error"])
        for each in found
    ]
    print_table(("NUMBER", "TARGET", "STATE", "AT", "WHAT", "ERROR"), rows, "nothing was told")


@notify_app.command("resend")
def notify_resend(
    notification: Annotated[int, typer.Argument(help="The number of a dead notification.")],
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send a notification again that was given up."""
    with open_client(url, token_file, data_dir) as client:
        client.call("POST", f"/notifications/{notification}/resend")
    print_result({"id": notification, "resent": True}, f"notification {notification} is sent again", as_json)


def _rules(each: dict[str, Any]) -> str:
    parts = [*each["events"], *each["sites"], *each["models"], each["query"]]
    if each["min_severity"] != "normal":
        parts.append(f"{each['min_severity']} or worse")
    return ", ".join(part for part in parts if part) or "everything"
