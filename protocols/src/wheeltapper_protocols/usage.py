"""What both command lines say of wrong usage: one line, with a code that docs/cli.md lists. Pure.

It knows click's exceptions by their names only, so it imports neither click nor typer.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["wrong_usage"]

_CODES: Final = {
    "NoSuchOption": "usage.unknown_option",
    "NoSuchCommand": "usage.unknown_command",
    "NoArgsIsHelpError": "usage.missing",
    "MissingParameter": "usage.missing",
    "BadParameter": "usage.value",
    "BadOptionUsage": "usage.value",
}
"""Codes of wrong usage by the name of click's exception; others are ``usage.arguments``."""


def wrong_usage(error: Any, program: str) -> tuple[str, str]:
    """What to say of an exception of click, and its code.

    Args:
        error: the exception; it has ``format_message``.
        program: name of the program, for an exception that knows no command.
    """
    kind = type(error).__name__
    text = (
        " ".join(error.format_message().split()).rstrip(".") if kind != "NoArgsIsHelpError" else "no command is given"
    )
    if text.startswith("No such command"):
        kind = "NoSuchCommand"
    path = error.ctx.command_path if error.ctx is not None else program
    return f"{text}; see `{path} -h`", _CODES.get(kind, "usage.arguments")
