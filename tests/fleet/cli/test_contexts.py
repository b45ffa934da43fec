"""Contexts: log in to several fleets, and speak to one of them by its name."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.api.harness import AdminServer
from wheeltapper_fleet.client.contexts import ContextStore, FleetContext, contexts_file
from wheeltapper_fleet.ground.errors import FleetError


class Shell:
    """Runs ``wheeltapper`` as a user with a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WHEELTAPPER", "XDG"))}
        self.environment = {**kept, "HOME": str(home)}

    def run(self, *line: str, code: int = 0, given: str = "", **variables: str) -> str:
        """What a command printed: standard output, or standard error where it is to fail."""
        done = subprocess.run(
            [sys.executable, "-m", "wheeltapper_fleet", *line],
            cwd=self.home,
            env={**self.environment, **variables},
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == code, f"{line}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout if code == 0 else done.stderr


@pytest.fixture(name="shell")
def _shell(tmp_path: Path) -> Shell:
    home = tmp_path / "home"
    home.mkdir()
    return Shell(home)


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[AdminServer]:
    with AdminServer(tmp_path / "data") as server:
        yield server


def test_log_in_and_speak_to_a_fleet_by_its_name(server: AdminServer, shell: Shell) -> None:
    said = json.loads(shell.run("login", server.url, "--name", "plant-7", "--json", given=server.token + "\n"))
    assert (said["context"], said["name"]) == ("plant-7", "first")
    file = shell.home / ".config/wheeltapper/contexts.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert json.loads(shell.run("who", "--json"))["name"] == "first"
    shell.run("login", server.url, "--name", "plant-8", given=server.token + "\n")
    rows = json.loads(shell.run("context", "list", "--json"))
    assert [(row["name"], row["current"]) for row in rows] == [("plant-7", False), ("plant-8", True)]
    assert server.token not in shell.run("context", "list")
    shell.run("context", "use", "plant-7")
    shell.run("context", "remove", "plant-8")
    assert "context.not_found" in shell.run("--context", "plant-8", "who", code=1)
    assert "context.not_found" in shell.run("who", code=1, WHEELTAPPER_CONTEXT="plant-9")
    assert json.loads(shell.run("--context", "plant-7", "who", "--json"))["name"] == "first"
    # What is named goes before the context; so does a service of this folder, unless the context is named.
    (shell.home / "wheeltapper-data/keys").mkdir(parents=True)
    (shell.home / "wheeltapper-data/serve.json").write_text("{}")
    assert "client.not_running" in shell.run("who", code=1)
    assert json.loads(shell.run("--context", "plant-7", "who", "--json"))["name"] == "first"
    shutil.rmtree(shell.home / "wheeltapper-data")
    assert "client.no_token" in shell.run("who", "--url", server.url, code=2)
    assert "client.not_running" in shell.run("who", "--data-dir", "elsewhere", code=1)


def test_a_wrong_token_is_not_kept(server: AdminServer, shell: Shell) -> None:
    assert "api.unauthorized" in shell.run("login", server.url, given="wt1.nonsense\n", code=1)
    assert not (shell.home / ".config").exists()
    assert "client." in shell.run("login", "fleet", given="x\n", code=1)


def test_tokens_that_others_can_read_are_not_used(shell: Shell) -> None:
    store = ContextStore(contexts_file({"HOME": str(shell.home)}))
    store.put(FleetContext("a", "http://127.0.0.1:1", "secret"))
    assert "secret" not in repr(store.current())
    store.path.chmod(0o640)
    assert "context.readable" in shell.run("who", code=2)
    with pytest.raises(FleetError, match=r"chmod 600"):
        store.all()


@pytest.mark.parametrize("content", ["current = 3\n[contexts]\na = 1", "x = [", "[contexts.a]\nurl = 'u'", "\x00"])
def test_a_damaged_file_is_refused_and_left(shell: Shell, content: str) -> None:
    store = ContextStore(contexts_file({"HOME": str(shell.home)}))
    store.put(FleetContext("a", "http://127.0.0.1:1", "secret"))
    store.path.write_text(content)
    with pytest.raises(FleetError) as caught:
        store.put(FleetContext("b", "http://127.0.0.1:1", "secret"))
    assert caught.value.code == "context.unreadable"
    assert store.path.read_text() == content


@pytest.mark.parametrize("name", ["", "a b", "../x", "-a", "a" * 64, 'a"]\n[x'])
def test_names_that_cannot_be_written_are_refused(shell: Shell, name: str) -> None:
    store = ContextStore(contexts_file({"HOME": str(shell.home)}))
    with pytest.raises(FleetError) as caught:
        store.put(FleetContext(name, "http://127.0.0.1:1", "secret"))
    assert caught.value.code == "context.name"


def test_what_toml_could_misread_comes_back_as_it_was(shell: Shell) -> None:
    store = ContextStore(contexts_file({"XDG_CONFIG_HOME": str(shell.home)}))
    context = FleetContext("a.b", 'http://x/"\\\n\u2028é', 'tok"en\x7f')
    store.put(context)
    assert store.current() == context
