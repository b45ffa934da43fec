"""``wheeltapper demo``: runs the demo's story, with a live view or headless, and cleans up.

It imports what it needs when it runs, as every command does.
"""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from wheeltapper_fleet.ground.errors import FleetError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from wheeltapper_fleet.demo.story import Story

__all__ = ["demo"]


def _interrupt(_signal: int, _stack: FrameType | None) -> None:
    """Handle SIGTERM like Ctrl-C, so that every process of the demo is ended."""
    raise KeyboardInterrupt


def _recordings(folder: Path | None, into: Path) -> list[Path]:
    """The recordings in ``folder``; FEMTO runs are converted and written to ``into``.

    Raises:
        FleetError: ``demo.no_recordings``.
    """
    if folder is None:
        return []
    from wheeltapper_fleet.training.importers import import_femto
    from wheeltapper_protocols.errors import RecordingError
    from wheeltapper_protocols.signal.recording import read_recording, write_recording

    found: list[Path] = []
    for file in sorted(folder.glob("*.npz")):
        try:
            read_recording(file)
            found.append(file)
        except RecordingError:
            target = into / f"{file.stem}.npz"
            into.mkdir(parents=True, exist_ok=True)
            write_recording(import_femto(file), target)
            found.append(target)
    if not found:
        raise FleetError(
            "demo.no_recordings",
            f"{folder} contains no .npz recording; name a folder with recordings or FEMTO runs",
            400,
        )
    return found


def demo(
    headless: Annotated[bool, typer.Option("--headless", help="No live view; progress on standard error.")] = False,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=1, help="End by itself after this long, but not before the story is told."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object last.")] = False,
    replay: Annotated[Path | None, typer.Option("--replay", help="Play the recordings of this folder.")] = None,
    devices: Annotated[int, typer.Option("--devices", min=3, max=50, help="How many simulated machines.")] = 5,
    folder: Annotated[Path | None, typer.Option("--folder", help="Keep everything here afterwards.")] = None,
) -> None:
    """A bearing wears out, the fleet sees it, a signed model goes out: the whole loop, on loopback only."""
    from rich.console import Console

    from wheeltapper_fleet.demo.stage import Stage
    from wheeltapper_fleet.demo.story import Story

    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(stderr=True)
    home = folder or Path(tempfile.mkdtemp(prefix="wheeltapper-demo-"))
    stage = Stage(home)
    code = 0
    try:
        story = Story(stage, devices=devices, replay=_recordings(replay, home / "recordings"))
        if headless:
            story.report = lambda text: console.print(f"[green]✓[/green] {text}")
        code = _play(story, console, seconds, headless=headless, as_json=as_json)
    except FleetError as error:
        typer.echo(f"error: {error.message}; logs are in {home / 'logs'} [{error.code}]", err=True)
        code = 2 if error.code == "demo.no_recordings" else 1
    except KeyboardInterrupt:
        console.print("ending …")
    finally:
        stage.close()
        if folder is None and code == 0:
            shutil.rmtree(home, ignore_errors=True)
    raise typer.Exit(code)


def _frame(story: Story, console: Console) -> RenderableType:
    """One frame of the live view."""
    from wheeltapper_fleet.demo.view import render

    client = story.stage.client
    token_file = str(story.stage.data_dir / "api-token")
    devices = [client.device(each["id"]) for each in client.devices()]  # a handful; each with its curve
    return render(client.summary(), devices, story.steps, story.stage.url, token_file, console.size)


def _play(story: Story, console: Console, seconds: float | None, *, headless: bool, as_json: bool) -> int:
    """Play the story, keep the demo running as long as wanted, and print its figures; gives the exit code."""
    stage = story.stage
    deadline = None if seconds is None else story.started + seconds

    def keep_running() -> None:
        """Wait until ``seconds`` are over; without ``seconds``, until Ctrl-C, or not at all if headless."""
        while (deadline is None and not headless) or (deadline is not None and time.monotonic() < deadline):
            stage.check_alive()
            time.sleep(0.2)

    try:
        if headless:
            story.play()
            keep_running()
        else:
            from wheeltapper_fleet.demo.view import LiveView

            with LiveView(console, lambda: _frame(story, console)):
                story.play()
                keep_running()
    except KeyboardInterrupt:
        if not as_json:
            raise
    result = story.finish()
    if as_json:
        typer.echo(json.dumps(result, sort_keys=True))
    return 0
