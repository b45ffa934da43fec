"""The commands of ``wheeltapper-agent`` for the device: status, doctor, profiles, install, uninstall."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from wheeltapper_agent.cli_support import DEFAULT_CONFIG, ConfigOption, JsonOption, fail, read_token_file
from wheeltapper_agent.ground.errors import AgentError

if TYPE_CHECKING:
    from wheeltapper_agent.config import DeviceConfig
    from wheeltapper_agent.host.install import Step, StepResult

__all__ = ["register"]

_EXIT_DOCTOR: Final = 3
RootOption = Annotated[
    Path, typer.Option("--root", resolve_path=True, help="The system's root: / or where an image is mounted.")
]


baseline_app = typer.Typer(help="What the device has learnt of its machines.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (status, doctor, profiles, install, uninstall):
        app.command()(command)
    app.add_typer(baseline_app, name="baseline")


def status(config: ConfigOption = DEFAULT_CONFIG, json_output: JsonOption = False) -> None:
    """Show the agent's status: its answer, or, where it does not run, the last status that it wrote."""
    from wheeltapper_agent.config import load_config
    from wheeltapper_agent.host.status_text import status_lines

    try:
        body = _present_status(load_config(config).device.state_dir)
    except AgentError as error:
        fail(error)
    if json_output:
        print(json.dumps(body))
        return
    print("\n".join(status_lines(body, time.time())))


@baseline_app.command("show")
def baseline_show(config: ConfigOption = DEFAULT_CONFIG, json_output: JsonOption = False) -> None:
    """Show what is learnt of the machine of each pipeline whose release has a baseline."""
    from wheeltapper_agent.config import load_config
    from wheeltapper_agent.host.status_text import baseline_line

    try:
        pipelines = _present_status(load_config(config).device.state_dir).get("pipelines", {})
    except AgentError as error:
        fail(error)
    found = {name: entry["baseline"] for name, entry in pipelines.items() if entry.get("baseline")}
    if json_output:
        print(json.dumps(found))
        return
    lines = [f"{name}: {baseline_line(each)}" for name, each in found.items()]
    print("\n".join(lines or ["no release that runs learns a baseline"]))


@baseline_app.command("reset")
def baseline_reset(
    pipeline: Annotated[str, typer.Argument(help="Whose machine is learnt anew.")],
    config: ConfigOption = DEFAULT_CONFIG,
    json_output: JsonOption = False,
) -> None:
    """Learn a pipeline's machine anew, and forget what was known: after a repair, or a moved sensor."""
    from wheeltapper_agent.config import load_config
    from wheeltapper_agent.ground.state_lock import StateLock
    from wheeltapper_agent.host.local_socket import SOCKET_FILE, ask
    from wheeltapper_agent.pipeline.baseline import BASELINES_FOLDER
    from wheeltapper_agent.pipeline.remembered import remove_file

    try:
        loaded = load_config(config)
        folder = loaded.device.state_dir
        if pipeline not in [each.name for each in loaded.pipelines]:
            raise AgentError("pipeline.unknown", f"there is no pipeline {pipeline} in {config}")
        try:
            ask(folder / SOCKET_FILE, {"ask": "reset_baseline", "pipeline": pipeline})
        except AgentError as error:
            if error.code not in ("local.no_agent",):
                raise
            lock = StateLock(folder)  # it does not run, and must not begin to while the file is changed
            try:
                remove_file(folder / BASELINES_FOLDER / f"{pipeline}.json")
            finally:
                lock.close()
    except AgentError as error:
        fail(error)
    print(json.dumps({"reset": pipeline}) if json_output else f"{pipeline}: its machine is learnt anew")


def _present_status(folder: Path) -> dict[str, Any]:
    """The agent's answer, or, where it does not run, the last status that it wrote; ``running`` says which.

    Raises:
        AgentError: ``local.denied``, ``status.missing``.
    """
    from wheeltapper_agent.host.local_socket import SOCKET_FILE, ask

    try:
        return {"running": True} | ask(folder / SOCKET_FILE, {"ask": "status"})
    except AgentError as error:
        if error.code == "local.denied":
            raise
        body = {"running": False} | _last_status(folder)
        print(f"the agent does not answer; this is the last status that it wrote [{error.code}]", file=sys.stderr)
        return body


def _last_status(folder: Path) -> dict[str, Any]:
    """The last status that the agent wrote, with the spool's present figures.

    Raises:
        AgentError: ``status.missing``.
    """
    from wheeltapper_agent.host.status import STATUS_FILE
    from wheeltapper_agent.records.spool import SPOOL_FILE, read_figures

    try:
        body: dict[str, Any] = json.loads((folder / STATUS_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise AgentError(
            "status.missing",
            f"there is no status in {folder}: the agent has not run yet, or you may not read it (use sudo)",
        ) from error
    figures = read_figures(folder / SPOOL_FILE)
    if figures is not None:
        names = ("epoch", "seq", "acked", "held", "dropped")
        body |= {name: getattr(figures, name) for name in names}
    return body


def doctor(config: ConfigOption = DEFAULT_CONFIG, json_output: JsonOption = False) -> None:
    """Check runtime, clock, disk, network, certificate and profile, and say what to do about each.

    Exit code 0 when nothing is wrong (warnings are allowed), 3 when a check failed.
    """
    from wheeltapper_agent.host.doctor import examine
    from wheeltapper_agent.host.finding import FAIL

    findings = examine(config)
    failed = any(finding.verdict == FAIL for finding in findings)
    if json_output:
        print(json.dumps({"healthy": not failed, "checks": [dataclasses.asdict(finding) for finding in findings]}))
    else:
        for finding in findings:
            print(f"{finding.verdict:5} {finding.check}: {finding.found}")
            if finding.advice:
                print(f"      -> {finding.advice}")
    if failed:
        raise typer.Exit(_EXIT_DOCTOR)


def profiles(json_output: JsonOption = False) -> None:
    """List the boards that the agent has profiles for."""
    from wheeltapper_agent.ground.profile import load_profile, profile_names

    try:
        found = [load_profile(name) for name in profile_names()]
    except AgentError as error:
        fail(error)
    if json_output:
        print(json.dumps([dataclasses.asdict(profile) for profile in found]))
        return
    for profile in found:
        print(f"{profile.name:18} {'/'.join(profile.arch):8} {profile.memory_cap_mb:5} MB  {profile.description}")


def _must_be_root() -> None:
    if os.geteuid() != 0:
        raise AgentError(
            "install.not_root", "only root can do this: use sudo; install --dry-run shows what would be done"
        )


def _token(token_file: Path | None, server: str | None, root: Path) -> str:
    """The enrolment token, checked before anything is changed; empty where no fleet is given.

    Raises:
        AgentError: ``install.enrol``, ``enrol.token``.
    """
    from wheeltapper_agent.link.identity import parse_token

    if server is None:
        return ""
    if os.path.realpath(root) != "/":
        raise AgentError(
            "install.enrol", "an image cannot be enrolled, since each device makes its own key: enrol on the device"
        )
    text = read_token_file(token_file) if token_file else os.environ.get("WHEELTAPPER_TOKEN", "")
    return parse_token(text).text


def install(
    profile: Annotated[str, typer.Option("--profile", help="The board's profile; auto: find it out.")],
    root: RootOption = Path("/"),
    program: Annotated[str | None, typer.Option("--program", help="The program that the service starts.")] = None,
    hardware_watchdog: Annotated[
        bool, typer.Option("--hardware-watchdog", help="Have systemd feed the board's watchdog.")
    ] = False,
    server: Annotated[str | None, typer.Option("--server", help="Enrol with this fleet: https://host:port")] = None,
    token_file: Annotated[Path | None, typer.Option("--token-file", help="A file that holds the token.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Install the service on this device or into an image: user, folders, configuration, systemd unit."""
    from wheeltapper_agent.config import load_config
    from wheeltapper_agent.host import install as steps
    from wheeltapper_agent.host.systemd_unit import CONFIG_FILE
    from wheeltapper_agent.host.uninstall import EscapeError, Layout

    try:
        if not dry_run:
            _must_be_root()
        token = _token(token_file, server, root)
        board = steps.choose_profile(profile, root)
        start = steps.program_path(root, program)
        layout = Layout(root)
        planned = steps.plan(layout, board, start, hardware_watchdog)
        results = [steps.apply(layout, step, dry_run) for step in planned]
        enrolled = layout.state_dir / "identity" / "fleet.json"
        if server is not None and not dry_run and not enrolled.exists():
            steps.enrol_as_service_user(start, server, token)
        started = not dry_run and steps.finish(layout)
        configured = load_config(layout.inside(CONFIG_FILE)).device if layout.inside(CONFIG_FILE).is_file() else None
    except EscapeError as error:
        fail(AgentError("install.escapes", str(error)))
    except AgentError as error:
        fail(error)
    notes = _differences(configured, board.name) if configured is not None else []
    if json_output:
        done = [{"path": str(step.path), "outcome": result} for step, result in zip(planned, results, strict=True)]
        body = {"profile": board.name, "dry_run": dry_run, "started": started, "enrolled": enrolled.exists()}
        print(json.dumps(body | {"steps": done, "notes": notes}))
        return
    _print_steps(planned, results, dry_run)
    for note in notes:
        print(f"note: {note}")
    if not enrolled.exists() and not dry_run:
        print(f"next: `runuser -u wheeltapper -- wheeltapper-agent enroll --server https://… --config {CONFIG_FILE}`")
    elif started:
        print("the service runs; check it with `wheeltapper-agent doctor`")


def _print_steps(planned: list[Step], results: list[StepResult], dry_run: bool) -> None:
    """What was done, a line for each step; a dry run also shows the files that would be written."""
    for step, result in zip(planned, results, strict=True):
        print(f"{'would be ' if dry_run else ''}{result}: {step.path}")
        if dry_run and step.kind == "file" and result != "kept":
            print("".join(f"    {text}\n" for text in step.content.splitlines()), end="")


def _differences(configured: DeviceConfig, profile: str) -> list[str]:
    """Where a configuration that existed before and the unit just written do not agree, and what to do."""
    from wheeltapper_agent.host.systemd_unit import CONFIG_FILE
    from wheeltapper_agent.host.uninstall import STATE_DIR

    notes = []
    if configured.profile != profile:
        notes.append(
            f"the configuration names the profile {configured.profile} and stays, the unit is that of {profile}: "
            f'write profile = "{profile}" into {CONFIG_FILE}, or run `wheeltapper-agent install --profile auto`'
        )
    if configured.state_dir != Path(STATE_DIR):
        notes.append(
            f"the configuration names the state folder {configured.state_dir}, the unit is made for {STATE_DIR}: "
            "adapt it with `systemctl edit wheeltapper-agent` (ConditionPathExists=, ReadWritePaths=)"
        )
    return notes


def uninstall(
    root: RootOption = Path("/"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    keep_state: Annotated[bool, typer.Option("--keep-state", help="Leave identity, releases and spool.")] = False,
    keep_config: Annotated[bool, typer.Option("--keep-config", help="Leave the configuration.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Remove service, configuration, state and user; afterwards the device must be enrolled again."""
    from wheeltapper_agent.host.uninstall import EscapeError, Layout, remove

    try:
        _must_be_root()
        if not yes:
            if not sys.stdin.isatty():
                raise AgentError(
                    "uninstall.unconfirmed", "this removes the device's identity and data: confirm with --yes"
                )
            what = (
                "service" + ("" if keep_config else ", configuration") + ("" if keep_state else ", identity and data")
            )
            typer.confirm(f"Remove {what} of the agent in {root}?", abort=True)
        lines = remove(Layout(root), keep_state, keep_config)
    except EscapeError as error:
        fail(AgentError("install.escapes", str(error)))
    except (OSError, subprocess.SubprocessError) as error:
        fail(AgentError("uninstall.failed", f"not everything could be removed: {error}; run it again"))
    except AgentError as error:
        fail(error)
    if json_output:
        print(json.dumps({"done": lines}))
        return
    print("\n".join(lines or ["there was nothing to remove"]))
