"""Reads the house from its source files: which module is in which room, and what it imports. Nothing is executed.

``Read(sources).edges`` maps each module to the modules of ours that it imports: by ``import`` and ``from``, wherever in
the file, by ``importlib.import_module("…")``, and by a text that is a module's whole name, with or without
``:attribute`` (tables of names that are imported later, entry points, ``python -m``).
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Import", "Read", "circles", "nodes", "parsed", "room_of"]


@functools.cache
def _parse(text: str) -> ast.Module:
    return ast.parse(text)


def parsed(file: Path) -> ast.Module:
    """The syntax tree of a file; files with the same content are parsed once."""
    return _parse(file.read_text(encoding="utf-8"))


@functools.cache
def _walked(text: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(_parse(text)))


def nodes(file: Path) -> tuple[ast.AST, ...]:
    """Every node of a file's syntax tree; files with the same content are walked once."""
    return _walked(file.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Import:
    """``module`` imports ``name``, a dotted name of ours or of a library, in line ``line``."""

    module: str
    name: str
    line: int


@functools.cache
def _imports(module: str, text: str, ours: frozenset[str]) -> tuple[Import, ...]:
    """What ``module`` imports, and the modules of the packages ``ours`` that it names as a text."""
    return tuple(_imported(module, _walked(text), ours))


def _imported(module: str, walked: Iterable[ast.AST], ours: Container[str]) -> Iterator[Import]:
    for node in walked:
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield from (Import(module, f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            if "." not in name:  # a distribution, or a process to start
                continue
            if name.partition(".")[0] in ours and all(part.isidentifier() for part in name.split(".")):
                yield Import(module, name, node.lineno)


@dataclass
class Read:
    """The source files below ``sources`` (package name to folder), read once."""

    sources: Mapping[str, Path]
    files: dict[str, Path] = field(init=False)
    imports: dict[str, list[Import]] = field(init=False)

    def __post_init__(self) -> None:
        self.files = {}
        for package, folder in self.sources.items():
            for file in sorted(folder.rglob("*.py")):
                parts = file.relative_to(folder).with_suffix("").parts
                self.files[".".join([package, *(part for part in parts if part != "__init__")])] = file
        ours = frozenset(self.sources)
        self.imports = {
            module: [found for found in _imports(module, file.read_text(encoding="utf-8"), ours) if self._counts(found)]
            for module, file in self.files.items()
        }

    def _counts(self, found: Import) -> bool:
        """Whether it is an import of a library, or of a module of ours that exists."""
        return found.name.partition(".")[0] not in self.sources or self.ours(found.name) is not None

    def ours(self, name: str) -> str | None:
        """The module that the dotted ``name`` means: itself, or the one that it is an attribute of; None: not ours."""
        return next((each for each in (name, name.rpartition(".")[0]) if each in self.files), None)

    @functools.cached_property
    def edges(self) -> dict[str, set[str]]:
        """The modules of ours that each module imports, itself left out."""
        return {
            module: {target for found in imports if (target := self.ours(found.name)) not in (None, module)}
            for module, imports in self.imports.items()
        }

    def reached(self, module: str) -> set[str]:
        """Every module that is imported when ``module`` is, itself included."""
        seen, waiting = set(), [module]
        while waiting:
            if (each := waiting.pop()) not in seen:
                seen.add(each)
                waiting += self.edges[each]
        return seen


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """The circles among ``edges``: each strongly connected component of more than one node, sorted (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            circle = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return sorted(found)


def room_of(module: str, order: tuple[str, ...]) -> int | None:
    """The place in ``order`` of the room that ``module`` belongs to: the longest name that it begins with."""
    mine = [name for name in order if module == name or module.startswith(name + ".")]
    return order.index(max(mine, key=len)) if mine else None
