"""Every command of both programs: help, wrong usage, JSON, exit codes; every command that a message or page names."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.command_lines import (
    PROGRAMS,
    all_commands,
    errors_within_errors,
    shell_lines,
    texts,
    wrong_hints,
    wrong_with,
)
from wheeltapper_agent.cli import main as agent_main
from wheeltapper_fleet import __version__
from wheeltapper_fleet.cli.app import main as fleet_main

ROOT = Path(__file__).resolve().parents[1]
MAINS: dict[str, Callable[[], Any]] = {"wheeltapper": fleet_main, "wheeltapper-agent": agent_main}
ALL = [found for program, command in PROGRAMS.items() for found in all_commands(command, (program,))]
LEAVES = [(path, command) for path, command in ALL if not getattr(command, "commands", None)]
PRINT_NO_DATA = {"wheeltapper serve", "wheeltapper-agent run"}
"""They run until they are told to stop."""


class Ran:
    """What a command line did: exit code, standard output, standard error."""

    def __init__(self, code: object, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def usage_code(self) -> str:
        """The code of wrong usage; standard error is one line, and exit code 2."""
        assert self.code == 2, self.err
        match = re.fullmatch(r"error: [^\n]+ \[(usage\.\w+)\]\n", self.err)
        assert match is not None, self.err
        return match[1]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command line of one of the programs in this process."""

    def run_line(*line: str) -> Ran:
        monkeypatch.setattr(sys, "argv", list(line))
        with pytest.raises(SystemExit) as ended:
            MAINS[line[0]]()
        out, err = capsys.readouterr()
        return Ran(ended.value.code, out, err)

    return run_line


def named(found: tuple[tuple[str, ...], Any]) -> str:
    return "-".join(found[0])


@pytest.mark.parametrize("found", ALL, ids=named)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help(found: tuple[tuple[str, ...], Any], option: str, run: Callable[..., Ran]) -> None:
    path, command = found
    assert len(command.help or "") > 10
    done = run(*path, option)
    assert (done.code, done.err) == (0, "")
    assert " ".join(path) in done.out


@pytest.mark.parametrize("found", ALL, ids=named)
def test_wrong_usage_is_one_line_with_a_code(found: tuple[tuple[str, ...], Any], run: Callable[..., Ran]) -> None:
    path, command = found
    assert run(*path, "--no-such-option").usage_code == "usage.unknown_option"
    if getattr(command, "commands", None):
        assert run(*path).usage_code == "usage.missing"
        assert run(*path, "no-such-command").usage_code == "usage.unknown_command"
        return
    if any(parameter.required for parameter in command.params):
        assert run(*path).usage_code == "usage.missing"
    else:
        assert run(*path, "a", "b", "c", "d").usage_code == "usage.arguments"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("wheeltapper keys init --keys-dir k --threshold many", "usage.value"),
        ("wheeltapper keys init --keys-dir k --threshold 99", "usage.value"),
        ("wheeltapper release verify bearing-anomaly newest", "usage.value"),
        ("wheeltapper serve --admin-port", "usage.arguments"),
        ("wheeltapper demo --devices 1", "usage.value"),
        ("wheeltapper-agent replay --bundle b", "usage.missing"),
        ("wheeltapper-agent doctor here", "usage.arguments"),
    ],
)
def test_wrong_values_are_wrong_usage(line: str, code: str, run: Callable[..., Ran]) -> None:
    found = run(*line.split()).usage_code
    assert found == code or (line.endswith("--admin-port") and found.startswith("usage."))


@pytest.mark.parametrize("found", LEAVES, ids=named)
def test_every_command_that_prints_data_prints_json(found: tuple[tuple[str, ...], Any]) -> None:
    path, command = found
    options = {text for parameter in command.params for text in parameter.opts}
    assert ("--json" in options) == (" ".join(path) not in PRINT_NO_DATA)


@pytest.mark.parametrize("program", PROGRAMS)
def test_version_and_completion(program: str, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(program, "--version")
    assert (done.code, done.out, done.err) == (0, f"{program} {__version__}\n", "")
    options = {text for parameter in PROGRAMS[program].params for text in parameter.opts}
    assert {"--version", "--install-completion", "--show-completion"} <= options
    monkeypatch.setenv(f"_{program.upper().replace('-', '_')}_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"{program} ")
    monkeypatch.setenv("COMP_CWORD", "1")
    done = run(program)
    assert done.code == 0
    assert {*done.out.split()} >= {*PROGRAMS[program].commands}


def test_ctrl_c_and_the_operating_system_have_their_exit_codes(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wheeltapper_agent.ground.profile.profile_names", interrupted)
    monkeypatch.setattr("wheeltapper_fleet.trust.keys.init_keys", interrupted)
    assert run("wheeltapper-agent", "profiles").code == 130
    keys = ("--keys-dir", str(tmp_path / "k"), "--data-dir", str(tmp_path / "d"))
    assert run("wheeltapper", "keys", "init", *keys).code == 130
    monkeypatch.setattr("wheeltapper_agent.ground.profile.profile_names", lambda: (tmp_path / "none").read_text())
    done = run("wheeltapper-agent", "profiles")
    assert (done.code, done.err) == (1, f"error: No such file or directory: {tmp_path / 'none'} [cli.io]\n")


def test_a_url_without_a_token_asks_for_the_token(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WHEELTAPPER_URL", "WHEELTAPPER_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    done = run("wheeltapper", "device", "list", "--url", "http://127.0.0.1:1")
    assert (done.code, done.err.endswith("[client.no_token]\n"), "--token-file" in done.err) == (2, True, True)
    monkeypatch.setenv("WHEELTAPPER_URL", "http://127.0.0.1:1")
    assert run("wheeltapper", "device", "list").err.endswith("[client.no_token]\n")


@pytest.mark.parametrize(
    "file",
    [file for part in ("agent", "fleet", "protocols") for file in sorted((ROOT / part / "src").rglob("*.py"))],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_every_command_in_a_message_is_one_that_the_program_takes(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    found = [wrong for text in texts(source) for wrong in wrong_hints(text)]
    assert found == []
    assert errors_within_errors(source) == []  # no line has two codes


@pytest.mark.parametrize(
    "file", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda file: str(file.relative_to(ROOT))
)
def test_every_command_line_in_the_documentation_is_one_that_the_program_takes(file: Path) -> None:
    lines = list(shell_lines(file.read_text(encoding="utf-8")))
    assert [wrong for line in lines if (wrong := wrong_with(line))] == []


def test_these_checks_can_fail() -> None:
    assert wrong_with("wheeltapper device token press-1") == ""
    assert "Missing argument" in wrong_with("wheeltapper device token")
    assert "no command 'tokens'" in wrong_with("sudo wheeltapper device tokens")
    assert "No such option" in wrong_with("WHEELTAPPER_TOKEN=x wheeltapper-agent run --confg x")
    assert wrong_with("systemctl edit wheeltapper-agent") == ""
    assert wrong_hints("run wheeltapper-agent enroll first") == ["not in backticks: wheeltapper-agent enroll first"]
    assert wrong_hints("run `wheeltapper keys init`, a wheeltapper fleet CA")[0].startswith("wheeltapper keys init: ")
    assert list(texts('"""`doc`"""\nx = f"run `a {b} c`" "!"\ny = "z"')) == ["run `a … c`!", "z"]
    wrong = 'try:\n    f()\nexcept WireError as e:\n    raise AgentError("a.b", f"no: {e}") from e\n'
    assert len(errors_within_errors(wrong)) == 1
    assert errors_within_errors(wrong.replace("{e}", "{e.message}")) == []
    assert list(shell_lines("```sh\nA=$(b c) d e &   # f\ng | h > i\n```")) == ["b c", "A=… d e", "g", "h"]
