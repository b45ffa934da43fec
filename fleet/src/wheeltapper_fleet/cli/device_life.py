"""``wheeltapper device``: tags of devices, and their life from pending to retired."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from wheeltapper_fleet.cli.options import AsJson, DataDir, DeviceFirst, IfMatch, TokenFile, Url
from wheeltapper_fleet.cli.support import (
    BAD_INPUT,
    fail,
    failures,
    format_time,
    open_client,
    print_json,
    print_result,
    print_table,
)

__all__ = ["add_life_commands"]

_Why = Annotated[str, typer.Option(help="The reason, for the device's log.")]
_CHANGES = {"ignore_unknown_options": True}
"""``-line`` removes the tag ``line``; it is no option."""


def add_life_commands(app: typer.Typer) -> None:
    """Add the commands to ``wheeltapper device``."""
    app.command("tag", context_settings=_CHANGES)(device_tag)
    app.command("edit")(device_edit)
    for action, (done, about) in _MOVES.items():
        app.command(action)(_moving(action, done, about))
    app.command("forget")(device_forget)
    app.command("log")(device_log)
    app.command("pre-enrol")(device_pre_enrol)


def device_tag(
    device: DeviceFirst,
    changes: Annotated[list[str], typer.Argument(help="key=value sets a tag, -key removes one.")],
    why: _Why = "",
    if_match: IfMatch = None,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Change tags of a device; the others stay. The tag site is its site."""
    tags = _tag_change(changes)
    with open_client(url, token_file, data_dir) as client:
        found = client.tag_device(device, tags, why, if_match)
    text = " ".join(f"{key}={value}" for key, value in found["tags"].items())
    print_result(found, f"{device}: {text or 'no tags'}", as_json)


def device_edit(
    q: Annotated[str, typer.Argument(help="Which devices, in the query language.")],
    tag: Annotated[list[str] | None, typer.Option(help="key=value sets a tag; repeatable.")] = None,
    untag: Annotated[list[str] | None, typer.Option(help="Removes the tag with this key; repeatable.")] = None,
    do: Annotated[str | None, typer.Option(help="quarantine, reinstate, revoke or retire.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it. Without it the devices are only counted.")] = False,
    expect: Annotated[int | None, typer.Option(min=0, help="Refuse unless so many devices match.")] = None,
    why: _Why = "",
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Change every device that a query means: tags, state, or both. Counts them unless --apply is given."""
    change: dict[str, Any] = {"tags": _tag_change([*(tag or []), *(f"-{key}" for key in untag or [])])}
    if do is not None:
        if do not in _MOVES:
            fail("cli.action", f"{do!r} is no action; there are {', '.join(_MOVES)}", BAD_INPUT)
        change["action"] = do
    if not change["tags"] and do is None:
        fail("cli.no_change", "nothing to change: give --tag, --untag or --do", BAD_INPUT)
    if expect is not None:
        change["expected"] = expect
    with open_client(url, token_file, data_dir) as client:
        done = client.edit_devices(q, why=why, dry=not apply, **change)
    text = f"{done['matched']} devices match, {done['changed']} {'are changed' if apply else 'would be changed'}"
    refused = "".join(f"; {count} not [{code}]" for code, count in sorted(done["refused"].items()))
    print_result(done, text + refused + ("" if apply else "; --apply does it"), as_json)


def _moving(action: str, done: str, about: str) -> Callable[..., None]:
    """The command that takes a device through ``action`` of its life.

    Args:
        action: the name of the action and of the command.
        done: what the device is then, for people.
        about: the help text of the command.
    """

    def command(
        device: str,
        why: _Why = "",
        if_match: IfMatch = None,
        url: Url = None,
        token_file: TokenFile = None,
        data_dir: DataDir = None,
        as_json: AsJson = False,
    ) -> None:
        with open_client(url, token_file, data_dir) as client:
            found = client.move_device(device, action, why, if_match)
        print_result(found, f"{device} is {done}", as_json)

    command.__doc__ = about
    return command


_MOVES: Final = {
    "quarantine": (
        "in quarantine",
        "Keep a device under watch: it stays connected, but gets no assignment and is in no campaign.",
    ),
    "reinstate": ("active again", "End a device's quarantine."),
    "revoke": ("revoked", "Refuse a device from now on."),
    "retire": (
        "retired",
        "Take a device out of use: its identity ends, its history stays. A new token brings its id back.",
    ),
}
"""The commands that :func:`_moving` makes, in the order of the help."""


def device_forget(
    device: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Remove a device that lost its key, so that its id can be enrolled again. Its records stay."""
    with open_client(url, token_file, data_dir) as client:
        client.forget(device)
    print_result({"device": device, "forgotten": True}, f"{device} is forgotten; it can be enrolled again", as_json)


def device_log(
    device: str, url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show what was done to a device, by whom and why, newest first."""
    with open_client(url, token_file, data_dir) as client:
        found = list(client.device_log(device))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            format_time(each["at"]),
            each["who"],
            each["event"],
            each["state"],
            each["detail"] or None,
            each["why"] or None,
        )
        for each in found
    ]
    print_table(("AT", "WHO", "WHAT", "STATE", "DETAIL", "WHY"), rows, "nothing was done to it")


def device_pre_enrol(
    file: Annotated[Path, typer.Argument(help="CSV with the columns id and, if wanted, site and tags (a=1;b=2).")],
    out: Annotated[Path, typer.Option(help="CSV to write: device, token, expires_at. Only its owner can read it.")],
    ttl_seconds: Annotated[float, typer.Option(help="How long the tokens are good for.")] = 604_800.0,
    url: Url = None,
    token_file: TokenFile = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make one-time enrolment tokens for many devices: for all of them, or for none if a row is wrong."""
    from wheeltapper_fleet.cli.expected_file import read_expected, written_once

    with failures():
        devices = read_expected(file)
        with written_once(out) as write, open_client(url, token_file, data_dir) as client:
            made = client.create_tokens(devices, ttl_seconds)
            write([(each["device"], each["token"], format_time(each["expires_at"]) or "") for each in made])
    print_result({"devices": len(made), "path": str(out)}, f"{out}: tokens of {len(made)} devices", as_json)


def _tag_change(texts: list[str]) -> dict[str, str | None]:
    """Tags to set (``key=value``) and to remove (``-key``); ends the command if one is malformed."""
    change: dict[str, str | None] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if text.startswith("-") and not sign and len(text) > 1:
            change[text[1:]] = None
        elif sign and key and value and not text.startswith("-"):
            change[key] = value
        else:
            fail("cli.tag", f"{text!r} changes no tag; write key=value, or -key to remove one", BAD_INPUT)
    return change
