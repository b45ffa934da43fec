"""Command lines of both programs, parsed by the programs' own parsers without running anything."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from wheeltapper_agent.cli import app as agent_app
from wheeltapper_fleet.cli.app import app as fleet_app

PROGRAMS: dict[str, Any] = {
    "wheeltapper": typer.main.get_command(fleet_app),
    "wheeltapper-agent": typer.main.get_command(agent_app),
}
_BEFORE = {"sudo", "runuser", "-u", "wheeltapper", "--", "/opt/wheeltapper/bin/"}
"""What may stand before a program in a command line."""


def all_commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """``command`` and every command below it, by its full name."""
    yield path, command
    inner: Mapping[str, Any] = getattr(command, "commands", None) or {}
    for name, found in inner.items():
        yield from all_commands(found, (*path, name))


def wrong_with(line: str) -> str:
    """Why the program would refuse this command line; empty where it is right or calls neither program."""
    words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
    names = [index for index, word in enumerate(words) if Path(word).name in PROGRAMS]
    if not names or not {*words[: names[-1]]} <= _BEFORE:
        return ""
    program, arguments = Path(words[names[-1]]).name, words[names[-1] + 1 :]
    command = PROGRAMS[program]
    if arguments in (["-h"], ["--help"], ["--version"]):
        return ""
    while getattr(command, "commands", None):
        if not arguments or arguments[0] not in command.commands:
            return f"{line}: there is no command {' '.join(arguments[:1])!r}"
        command = command.commands[arguments.pop(0)]
    if arguments in (["-h"], ["--help"]):
        return ""
    try:
        command.make_context(program, list(arguments))
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return f"{line}: {error.format_message()}"
    return ""


def texts(source: str) -> Iterator[str]:
    """The texts of a Python file that are no docstrings; ``…`` where an f-string has a value."""
    tree = ast.parse(source)
    silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            silent.update(id(part) for part in ast.walk(node) if part is not node)
    for node in ast.walk(tree):
        if id(node) in silent:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)


def wrong_hints(text: str) -> list[str]:
    """What is wrong with the commands that a text names: each stands in backticks and is one that the program takes."""
    found = [wrong_with(line) for line in re.findall(r"`([^`\n]*\bwheeltapper(?:-agent)?\b[^`\n]*)`", text)]
    bare = re.sub(r"`[^`]*`", "", text)
    for program, command in PROGRAMS.items():
        names = "|".join(command.commands)
        found += [
            f"not in backticks: {match}" for match in re.findall(rf"(?<![\w/-]){program} (?:{names})\b[^.;,]*", bare)
        ]
    return [entry for entry in found if entry]


def shell_lines(markdown: str) -> Iterator[str]:
    """The command lines in the shell blocks of a document, one for each simple command."""
    for block in re.findall(r"```sh\n(.*?)```", markdown, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            plain = re.sub(r"(?:^|\s)#.*", "", line)
            yield from re.findall(r"\$\(([^)]*)\)", plain)
            for part in re.split(r"&&|\||;|&|\s[12]?>{1,2}\s?\S+", re.sub(r"\$\([^)]*\)", "…", plain)):
                if part.strip():
                    yield part.strip()


_OURS = re.compile(r"\b(Agent|Fleet|Protocol|Wire|Recording|Training|Https)Error\b")


def errors_within_errors(source: str) -> list[str]:
    """Errors whose message has a whole error of ours in it, which ends with its own code: two codes in a line."""
    found = []
    for handler in ast.walk(ast.parse(source)):
        if not isinstance(handler, ast.ExceptHandler) or handler.type is None or not handler.name:
            continue
        if not _OURS.search(ast.unparse(handler.type)):
            continue
        for call in ast.walk(handler):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("Error"):
                values = [part.value for part in ast.walk(call) if isinstance(part, ast.FormattedValue)]
                if any(isinstance(value, ast.Name) and value.id == handler.name for value in values):
                    found.append(ast.unparse(call)[:120])
    return found
