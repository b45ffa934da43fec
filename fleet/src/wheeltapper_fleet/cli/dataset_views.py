"""How versions of datasets and their checks are shown to people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from wheeltapper_fleet.cli.support import print_table, printable

if TYPE_CHECKING:
    from wheeltapper_fleet.learning.datasets.manifest import Check, DatasetManifest

__all__ = ["show_checks", "show_manifest"]


def show_manifest(manifest: DatasetManifest, sha256: str) -> None:
    """Print a version: what it is, its forms, its sides, its checks."""
    split = manifest.splitting
    typer.echo(f"{manifest.ref}  {manifest.created_at}  sha256 {sha256}")
    if manifest.description:
        typer.echo(printable(manifest.description))
    typer.echo(f"{manifest.items.count} items of {manifest.machines} machines, {manifest.bytes / 1e6:.1f} MB")
    for form in manifest.schema:
        rate = f" at {form.sample_rate_hz:g} Hz, {form.window_samples} samples" if form.kind == "recording" else ""
        channels = ", ".join(form.channels[:8]) + (
            f" and {len(form.channels) - 8} more" if len(form.channels) > 8 else ""
        )
        typer.echo(printable(f"  {form.items} × {form.kind}{rate}: {channels}"))
    for name, values in manifest.labels.items():
        shown = ", ".join(f"{value} {count}" for value, count in list(values.items())[:8])
        typer.echo(printable(f"  label {name}: {shown}"))
    if split.sides:
        typer.echo(f"divided by {split.lineage}")
        rows = [(side or None, each.items, each.snapshots, each.machines) for side, each in split.sides.items()]
        print_table(("SIDE", "ITEMS", "SNAPSHOTS", "MACHINES"), rows, "")
    show_checks(manifest.checks)


def show_checks(checks: Sequence[Check]) -> None:
    """Print checks: those that do not pass, and how many do."""
    rows = [
        (check.verdict, check.name, f"{check.value:.4g}", f"{check.limit:.4g}", check.detail)
        for check in checks
        if check.verdict != "pass"
    ]
    if rows:
        print_table(("VERDICT", "CHECK", "VALUE", "LIMIT", "DETAIL"), rows, "")
    typer.echo(f"{len(checks) - len(rows)} of {len(checks)} checks pass")
