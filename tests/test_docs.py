"""The documentation says what is there: commands and options, links, decisions, diagrams, no private paths.

Each check is a function of texts, so that it can be shown to fail.
"""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer

from wheeltapper_agent.cli import app as agent_app
from wheeltapper_fleet.cli.app import app as fleet_app
from wheeltapper_fleet.demo.cli import demo

ROOT = Path(__file__).resolve().parents[1]
Options = dict[str, set[str]]
PARTS = ("protocols", "agent", "fleet")

PRIVATE = re.compile(
    # A developer's machine, then hosts of package registries; in parts, so that this file does not match itself.
    r"(?<![\w./-])/(?:ho" r"me|Us" r"ers|wo" r"rk|ro" r"ot)/[\w.]"
    r"|pypi\.o" r"rg|pythonhos" r"ted|registry\.np" r"mjs|index-u" r"rl|art" r"ifactory|crates\.i" r"o\b|ghc" r"r\.io"
)  # fmt: skip


def documents() -> list[Path]:
    """What people read."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Every command below ``command`` that does something, by its full name."""
    inner: Mapping[str, Any] | None = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(path), command
        return
    for name, found in inner.items():
        yield from commands(found, (*path, name))


def real_options() -> Options:
    """The options of every command of both programs."""
    alone = typer.Typer(add_completion=False)
    alone.command()(demo)
    found: Options = {}
    for app, program in ((fleet_app, "wheeltapper"), (agent_app, "wheeltapper-agent")):
        for name, command in commands(typer.main.get_command(app), (program,)):
            real = typer.main.get_command(alone) if name == "wheeltapper demo" else command
            options = [item for item in real.params if item.param_type_name == "option" and item.name != "help"]
            found[name] = {text for option in options for text in (*option.opts, *option.secondary_opts)}
    return found


def documented_options(text: str) -> Options:
    """The options in the table below each ``###`` heading."""
    found: Options = {}
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        rows = [line.split("|")[1] for line in body.splitlines() if line.startswith("| `")]
        found[heading.strip()] = set(re.findall(r"`(-[^`]+)`", " ".join(rows)))
    return found


def broken_links(file: Path, text: str) -> list[str]:
    """Relative links that lead nowhere, and anchors that no heading has."""
    broken = []
    for target in re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (file.parent / path) if path else file
        if not there.exists() or (anchor and anchor not in anchors(there.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def empty_diagrams(text: str) -> int:
    """How many mermaid blocks draw nothing: less than a kind and one line."""
    return sum(len(block.split("\n")) < 3 for block in re.findall(r"```mermaid\n(.*?)```", text, flags=re.DOTALL))


def missing_files(text: str) -> list[str]:
    """Paths in backticks that are nowhere: not in the repository, not in a package."""
    named = set(re.findall(r"`([\w.-]+/[\w./-]*?(?:\.(?:py|md|toml|txt|json)|/))`", text))
    places = [ROOT, *(ROOT / f"{part}/src/wheeltapper_{part}" for part in PARTS), *(ROOT / "tests", ROOT / "docs")]
    places += [ROOT / f"{part}/src" for part in PARTS]
    shortened = {f"{part}/": f"{part}/src/wheeltapper_{part}/" for part in PARTS}
    found = []
    for path in sorted(named):
        part = path.partition("/")[0] + "/"
        long = path.replace(part, shortened.get(part, part), 1)
        if not any((place / each).exists() for place in places for each in (path, long)):
            found.append(path)
    return found


def private_lines(text: str) -> list[str]:
    """Lines that name a developer's folder or a package registry."""
    return [line.strip()[:160] for line in text.splitlines() if PRIVATE.search(line)]


def tracked_files() -> list[Path]:
    """What git keeps."""
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_every_command_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    documented, real = documented_options(text), real_options()
    assert len(real) > 20
    assert documented == real


def test_links_lead_somewhere() -> None:
    broken = {
        str(file.relative_to(ROOT)): found
        for file in documents()
        if (found := broken_links(file, file.read_text(encoding="utf-8")))
    }
    assert broken == {}


@pytest.mark.parametrize(
    "name", ["docs/architecture.md", "CONTRIBUTING.md", "docs/agent/updates.md", "docs/agent/drift.md"]
)
def test_the_files_that_a_newcomer_is_led_to_are_there(name: str) -> None:
    assert missing_files((ROOT / name).read_text(encoding="utf-8")) == []


def test_decisions_are_numbered_without_gaps() -> None:
    files = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for number, file in enumerate(files, start=1):
        assert file.read_text(encoding="utf-8").startswith(f"# {number}. "), file.name


def test_diagrams_draw_something() -> None:
    texts = [file.read_text(encoding="utf-8") for file in documents()]
    assert sum(text.count("```mermaid") for text in texts) > 0
    assert sum(empty_diagrams(text) for text in texts) == 0


def test_no_file_names_a_private_path_or_a_registry() -> None:
    found = {}
    for file in tracked_files():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if lines := private_lines(text):
            found[str(file.relative_to(ROOT))] = lines
    assert found == {}


def test_the_checks_can_fail(tmp_path: Path) -> None:
    assert documented_options("### a b\n\n| option | |\n|---|---|\n| `--x`, `-y` | `--z` |\n") == {"a b": {"--x", "-y"}}
    assert broken_links(tmp_path / "a.md", "[a](b.md) [c](https://x/y)") == ["b.md"]
    (tmp_path / "b.md").write_text("# One two\n", encoding="utf-8")
    assert broken_links(tmp_path / "a.md", "[a](b.md#one-two) [b](b.md#three)") == ["b.md#three"]
    assert missing_files("`agent/update/machine.py` `update/machine.py` `update/table.py` `attic/x/` `docs/adr/`") == [
        "attic/x/",
        "update/table.py",
    ]
    assert (
        empty_diagrams("```mermaid\n```\n```mermaid\nflowchart LR\n```\n```mermaid\nflowchart LR\na --> b\n```\n") == 2
    )
    for folder, host in itertools.product(
        ("home", "Users"), (".".join(("pypi", "org")), "files.python" + "hosted.org")
    ):
        assert private_lines(f"see /{folder}/me/x\nfrom https://{host}/\nfine: ../shared/data /etc/hosts\n") == [
            f"see /{folder}/me/x",
            f"from https://{host}/",
        ]


def test_every_page_of_the_documentation_is_in_the_navigation_once() -> None:
    listed = re.findall(r": ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    there = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(there)
