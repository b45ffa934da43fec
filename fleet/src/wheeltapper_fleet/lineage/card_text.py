"""A model card as Markdown and as HTML, from the sections that the service answers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["as_html", "as_markdown"]


def as_markdown(card: Mapping[str, Any]) -> str:
    """The card as Markdown: a heading and a table for each section."""
    lines = [f"# {_cell(card['model'])}, release {card['release']}", ""]
    for section in card["sections"]:
        lines += [f"## {_cell(section['title'])}", "", "| | |", "|---|---|"]
        lines += [f"| {_cell(row['name'])} | {_cell(row['value'])} |" for row in section["rows"]]
        lines.append("")
    return "\n".join(lines)


def as_html(card: Mapping[str, Any]) -> str:
    """The card as one HTML page without scripts; everything that it says is escaped."""
    title = escape(f"{card['model']}, release {card['release']}")
    parts = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>']
    for section in card["sections"]:
        parts.append(f"<h2>{escape(section['title'])}</h2><table>{_rows(section['rows'])}</table>")
    return "\n".join([*parts, "</html>", ""])


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(f"<tr><th>{escape(row['name'])}</th><td>{escape(row['value'])}</td></tr>" for row in rows)


def _cell(text: str) -> str:
    """``text`` in a cell of a table: one line, and neither HTML nor a column's end."""
    return escape(" ".join(str(text).split()), quote=False).replace("|", "\\|")
