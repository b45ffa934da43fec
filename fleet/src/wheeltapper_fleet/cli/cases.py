"""``wheeltapper case``: what needs a person, and what was found."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, TokenFile, Url
from wheeltapper_fleet.cli.support import (
    BAD_INPUT,
    fail,
    format_time,
    open_client,
    print_json,
    print_result,
    print_table,
)

__all__ = ["case_app"]

case_app = typer.Typer(help="Cases: alerts that people act on, ranked by risk.", no_args_is_help=True)
silence_app = typer.Typer(help="Maintenance: alerts within are kept, and nobody is told.", no_args_is_help=True)
case_app.add_typer(silence_app, name="silence")
Number = Annotated[int, typer.Argument(help="The number of the case.")]
_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86_400.0}


@case_app.command("list")
def case_list(
    everything: Annotated[bool, typer.Option("--all", help="All cases, newest first, also resolved ones.")] = False,
    attention: Annotated[str | None, typer.Option(help="person, nobody (triage handled it) or waiting.")] = None,
    state: Annotated[str | None, typer.Option(help="open, acknowledged, in_work or resolved.")] = None,
    severity: Annotated[str | None, typer.Option(help="warning or critical.")] = None,
    within: Annotated[str | None, typer.Option(help="Only this asset and what belongs to it.")] = None,
    site: Annotated[str | None, typer.Option(help="Only of this site.")] = None,
    device: Annotated[str | None, typer.Option(help="Only of this device.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    assignee: Annotated[str | None, typer.Option(help="Only of this person.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=1000)] = 100,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the cases that are not resolved, the riskiest first."""
    query = {"attention": attention, "state": state, "severity": severity, "within": within, "site": site}
    query |= {"device": device, "model": model, "assignee": assignee, "order": "newest" if everything else "risk"}
    with open_client(url, token_file, data_dir) as client:
        found = client.call("GET", "/cases", None, limit=limit, **query)["items"]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            item["id"],
            f"{item['risk']:.0f}",
            item["severity"],
            _state(item),
            _place(item),
            item["alerts"],
            item["assignee"],
            (item["why"] or [None])[0],
        )
        for item in found
    ]
    print_table(("CASE", "RISK", "SEVERITY", "STATE", "WHERE", "ALERTS", "ASSIGNEE", "WHY"), rows, "no case is open")


@case_app.command("show")
def case_show(
    case: Number, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show one case: why it is where it is, and what was done."""
    with open_client(url, token_file, data_dir) as client:
        found = client.call("GET", f"/cases/{case}")
    if as_json:
        print_json(found)
        return
    rows: list[tuple[object, object]] = [("state", _state(found)), ("risk", f"{found['risk']:.0f}")]
    rows += [("why", reason) for reason in found["why"]]
    rows += [("severity", found["severity"]), ("where", _place(found)), ("machine", found["machine"])]
    rows += [("model", f"{found['model']} release {found['release']}"), ("alerts", found["alerts"])]
    rows += [("first", format_time(found["first_at"])), ("last", format_time(found["last_at"]))]
    rows += [(name.replace("_", " "), found[name]) for name in ("assignee", "work_order", "verdict", "part", "note")]
    for entry in reversed(found["log"]):
        rows.append((format_time(entry["at"]), f"{entry['who']}: {entry['event']} {entry['detail']}".rstrip()))
    print_table((f"case {case}", ""), rows, "")


@case_app.command("similar")
def case_similar(
    case: Number, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show earlier cases that looked alike, and what they turned out to be."""
    with open_client(url, token_file, data_dir) as client:
        found = client.call("GET", f"/cases/{case}/similar")
    if as_json:
        print_json(found)
        return
    rows = [
        (each["id"], f"{100 * each['agreement']:.0f} %", each["verdict"], each["part"], _place(each), each["note"])
        for each in found["similar"]
    ]
    none = f"no case with a verdict looked alike; {found['compared']} were compared"
    print_table(("CASE", "ALIKE", "VERDICT", "PART", "WHERE", "NOTE"), rows, none)


@case_app.command("ack")
def case_ack(
    case: Number, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Say that you have seen the case; it becomes yours if it is nobody's."""
    _act(case, "acknowledge", {}, (url, token_file, data_dir), as_json)


@case_app.command("work")
def case_work(
    case: Number,
    work_order: Annotated[str | None, typer.Option(help="The number of the work order.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say that somebody works on it."""
    _act(case, "work", {"work_order": work_order}, (url, token_file, data_dir), as_json)


@case_app.command("resolve")
def case_resolve(
    case: Number,
    verdict: Annotated[str, typer.Option(help="true_fault, false_alarm or unclear.")],
    part: Annotated[str | None, typer.Option(help="Which part it was.")] = None,
    note: Annotated[str | None, typer.Option(help="What was found.")] = None,
    work_order: Annotated[str | None, typer.Option(help="The number of the work order.")] = None,
    failed_at: Annotated[
        float | None, typer.Option(help="When the machine failed, Unix seconds; else it did not.")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say what was found. It becomes a label; resolving again corrects it."""
    body = {"verdict": verdict, "part": part, "note": note, "work_order": work_order, "failed_at": failed_at}
    _act(case, "resolve", body, (url, token_file, data_dir), as_json)


@case_app.command("assign")
def case_assign(
    case: Number,
    to: Annotated[str | None, typer.Option(help="Whose case it is; left out: nobody's.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Say whose case it is."""
    _act(case, "assign", {"assignee": to}, (url, token_file, data_dir), as_json)


@case_app.command("comment")
def case_comment(
    case: Number,
    text: str,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a line into the case's log."""
    _act(case, "comment", {"text": text}, (url, token_file, data_dir), as_json)


@silence_app.command("create")
def silence_create(
    reason: Annotated[str, typer.Option(help="Why; it is shown with what is silenced.")],
    lasts: Annotated[str, typer.Option("--for", help="How long: 30m, 8h, 2d.")],
    asset: Annotated[str | None, typer.Option(help="An asset and what belongs to it.")] = None,
    query: Annotated[str, typer.Option(help="The devices of this query.")] = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Tell nobody of an asset, or of the devices of a query, from now on."""
    import time

    unit = _SECONDS.get(lasts[-1:], 0.0)
    if not unit or not lasts[:-1].isdecimal() or not lasts.isascii():
        fail("cli.duration", f"{lasts!r} is no duration; write 30m, 8h or 2d", BAD_INPUT)
    body = {"asset": asset, "query": query, "to_at": time.time() + int(lasts[:-1]) * unit, "reason": reason}
    with open_client(url, token_file, data_dir) as client:
        made = client.call("POST", "/silences", body)
    print_result(made, f"silence {made['id']} holds for {lasts}", as_json)


@silence_app.command("list")
def silence_list(
    ended: Annotated[bool, typer.Option("--ended", help="Also those that have ended.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the silences that hold or will hold."""
    with open_client(url, token_file, data_dir) as client:
        found = list(client.items("/silences", {"ended": ended}))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            item["id"],
            item["asset"] or item["query"],
            format_time(item["from_at"]),
            format_time(item["to_at"]),
            item["who"],
            item["reason"],
        )
        for item in found
    ]
    print_table(("SILENCE", "OF", "FROM", "TO", "BY", "REASON"), rows, "nothing is silenced")


@silence_app.command("end")
def silence_end(
    silence: int, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """End a silence now."""
    with open_client(url, token_file, data_dir) as client:
        client.call("POST", f"/silences/{silence}/end")
    print_result({"id": silence, "ended": True}, f"silence {silence} has ended", as_json)


def _act(case: int, action: str, body: dict[str, Any], where: tuple[Any, Any, Any], as_json: bool) -> None:
    """Act on a case as it is now."""
    with open_client(*where) as client:
        version = client.call("GET", f"/cases/{case}")["version"]
        found = client.call("POST", f"/cases/{case}/{action}", {**body, "expected_version": version})
    print_result(found, f"case {case} is {_state(found)}", as_json)


def _state(item: dict[str, Any]) -> str:
    if item["state"] == "resolved":
        return f"resolved ({item['verdict'] or 'by itself'})"
    waits = {"person": "", "nobody": " (handled)", "waiting": " (waiting)"}[item["attention"]]
    return str(item["state"]).replace("_", " ") + (waits if item["state"] == "open" else "")


def _place(item: dict[str, Any]) -> str:
    if item["kind"] == "release":
        return f"release {item['release']} of {item['model']}"
    return str(item["point"] or f"{item['device']}/{item['pipeline']}")
